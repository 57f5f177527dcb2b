//! What was looked at and what was found, and how it is shown: sections, a mark, and for what is not right a hint and where to read on.

use serde_json::{Value, json};

use super::topics::Topic;

/// Where docs/ of this version can be read.
const DOCS: &str = "docs/checks.md";

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Right,
    /// It works, and may be not what was meant.
    Doubtful,
    /// It fails or will fail.
    Wrong,
    /// Not looked at, and why not.
    Unseen,
}

/// One thing.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) topic: &'static Topic,
    /// What was looked at, where the topic has several.
    pub(super) what: String,
    pub(super) verdict: Verdict,
    /// What was found; empty where there is nothing to say.
    pub(super) told: String,
}

impl Finding {
    pub(super) fn new(topic: &'static Topic, verdict: Verdict, told: impl Into<String>) -> Self {
        Self { topic, what: topic.what.to_owned(), verdict, told: told.into() }
    }

    pub(super) fn right(topic: &'static Topic) -> Self {
        Self::new(topic, Verdict::Right, "")
    }

    pub(super) fn wrong(topic: &'static Topic, told: impl Into<String>) -> Self {
        Self::new(topic, Verdict::Wrong, told)
    }

    pub(super) fn doubtful(topic: &'static Topic, told: impl Into<String>) -> Self {
        Self::new(topic, Verdict::Doubtful, told)
    }

    pub(super) fn unseen(topic: &'static Topic, told: impl Into<String>) -> Self {
        Self::new(topic, Verdict::Unseen, told)
    }

    /// Wrong where there is something to tell, else right.
    pub(super) fn wrong_if(topic: &'static Topic, told: String) -> Self {
        if told.is_empty() { Self::right(topic) } else { Self::wrong(topic, told) }
    }

    /// Doubtful where there is something to tell, else right.
    pub(super) fn doubtful_if(topic: &'static Topic, told: String) -> Self {
        if told.is_empty() { Self::right(topic) } else { Self::doubtful(topic, told) }
    }

    /// Of several of the topic.
    pub(super) fn of(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    /// What the API server's answer means where it is none: who may not look has seen nothing wrong.
    pub(super) fn unanswered(topic: &'static Topic, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => {
                Self::unseen(topic, format!("may not look: {}", status.message))
            }
            kube::Error::Api(status) => Self::wrong(topic, status.message.clone()),
            other => Self::wrong(topic, format!("API server: {other}")),
        }
    }
}

/// What belongs together.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) findings: Vec<Finding>,
}

/// Whether nothing is wrong.
pub(super) fn is_right(sections: &[Section]) -> bool {
    sections.iter().flat_map(|section| &section.findings).all(|finding| finding.verdict != Verdict::Wrong)
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Right => "√",
        Verdict::Doubtful => "‼",
        Verdict::Wrong => "×",
        Verdict::Unseen => "-",
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Right => "right",
        Verdict::Doubtful => "doubtful",
        Verdict::Wrong => "wrong",
        Verdict::Unseen => "unseen",
    }
}

fn link(topic: &Topic) -> String {
    format!("{DOCS}#{}", topic.id)
}

/// For people.
pub(super) fn text(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        text.push_str(&format!("{}\n{}\n", section.name, "-".repeat(section.name.chars().count())));
        for finding in &section.findings {
            text.push_str(&format!("{} {}\n", mark(finding.verdict), finding.what));
            if finding.verdict != Verdict::Right {
                let told = if finding.told.is_empty() { "not looked at" } else { &finding.told };
                text.push_str(&format!("    {told}\n    {}\n    see {}\n", finding.topic.hint, link(finding.topic)));
            }
        }
        text.push('\n');
    }
    let all = || sections.iter().flat_map(|section| &section.findings);
    let count = |verdict| all().filter(|finding| finding.verdict == verdict).count();
    let sum = if is_right(sections) { "√" } else { "×" };
    text.push_str(&format!(
        "Status check results are {sum} ({} right, {} doubtful, {} wrong, {} not looked at)\n",
        count(Verdict::Right),
        count(Verdict::Doubtful),
        count(Verdict::Wrong),
        count(Verdict::Unseen)
    ));
    text
}

/// For programs.
pub(super) fn value(sections: &[Section]) -> Value {
    let finding = |it: &Finding| {
        json!({
            "id": it.topic.id, "what": it.what, "verdict": word(it.verdict), "finding": it.told,
            "hint": it.topic.hint, "docs": link(it.topic),
        })
    };
    let section =
        |it: &Section| json!({"name": it.name, "checks": it.findings.iter().map(finding).collect::<Vec<_>>()});
    json!({"right": is_right(sections), "sections": sections.iter().map(section).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::{super::topics, *};

    fn sections(verdict: Verdict) -> Vec<Section> {
        let findings = vec![Finding::right(&topics::API), Finding::new(&topics::EDGE_NODES, verdict, "none is")];
        vec![Section { name: "kubernetes", findings }]
    }

    #[test]
    fn only_what_is_wrong_fails() {
        for verdict in [Verdict::Right, Verdict::Doubtful, Verdict::Unseen] {
            assert!(is_right(&sections(verdict)), "{verdict:?}");
        }
        assert!(!is_right(&sections(Verdict::Wrong)));
        assert_eq!(value(&sections(Verdict::Wrong))["right"], false);
    }

    #[test]
    fn what_is_not_right_comes_with_hint_and_link() {
        let told = text(&sections(Verdict::Wrong));
        let expected = format!(
            "kubernetes\n----------\n√ {}\n× {}\n    none is\n    {}\n    see docs/checks.md#{}\n\nStatus check results are × (1 right, 0 doubtful, 1 wrong, 0 not looked at)\n",
            topics::API.what,
            topics::EDGE_NODES.what,
            topics::EDGE_NODES.hint,
            topics::EDGE_NODES.id
        );
        assert_eq!(told, expected);
    }
}
