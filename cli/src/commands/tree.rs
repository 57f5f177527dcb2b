//! `tree`: what hangs below a program, a fleet or an agent, with Ready and its reason.

use serde_json::{Value, json};

use super::family::{Member, Objects};
use crate::{cluster::Cluster, fault::Fault, output::Report};

/// Members of one parent that a person is shown; those that are not ready come first.
const SHOWN: usize = 30;

pub(super) async fn run(cluster: &Cluster, meant: &str) -> Result<Report, Fault> {
    let family = Objects::fetch(cluster).await?.family(meant)?;
    Ok(Report::new(value(&family), text(&family, &cluster.namespace)))
}

fn value(member: &Member) -> Value {
    let below: Vec<Value> = member.below.iter().map(value).collect();
    json!({"kind": member.kind, "name": member.name, "ready": member.ready, "reason": member.reason, "below": below})
}

fn text(root: &Member, namespace: &str) -> String {
    let mut rows = Vec::new();
    rows_of(root, "", "", &mut rows);
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("Namespace {namespace}\n{:<width$}   READY     REASON\n", "NAME");
    for (name, member) in rows {
        let told = member.map_or(String::new(), |member| format!("   {:<7}   {}", member.ready, member.reason));
        text.push_str(format!("{name:<width$}{told}").trim_end());
        text.push('\n');
    }
    text
}

fn rows_of<'a>(member: &'a Member, branch: &str, indent: &str, rows: &mut Vec<(String, Option<&'a Member>)>) {
    rows.push((format!("{branch}{}/{}", member.kind, member.name), Some(member)));
    let more = member.below.len().saturating_sub(SHOWN);
    let shown = member.below.iter().take(SHOWN).enumerate();
    for (place, below) in shown {
        let last = more == 0 && place + 1 == member.below.len();
        let (corner, line) = if last { ("└─", "  ") } else { ("├─", "│ ") };
        rows_of(below, &format!("{indent}{corner}"), &format!("{indent}{line}"), rows);
    }
    if more > 0 {
        let ready = member.below.iter().skip(SHOWN).filter(|below| below.ready == "True").count();
        rows.push((format!("{indent}└─… and {more} more, {ready} of them ready (all with -o json)"), None));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::family::tests::objects, *};

    #[test]
    fn it_is_drawn_as_a_tree() {
        let family = objects().family("fleet/meters").unwrap();
        let expected = "Namespace town\nNAME               READY     REASON\nEdgeFleet/meters   Unknown\n\
                        ├─EdgeDevice/b     False     Rb\n├─EdgeDevice/a     True\n└─EdgeDevice/c     True\n";
        assert_eq!(text(&family, "town"), expected);
        assert_eq!(value(&family)["below"][0]["reason"], "Rb");
    }

    #[test]
    fn many_are_counted() {
        let mut family = objects().family("fleet/meters").unwrap();
        family.below = vec![family.below[1].clone(); 100];
        let text = text(&family, "town");
        assert_eq!(text.lines().count(), 3 + SHOWN + 1);
        assert!(text.ends_with("└─… and 70 more, 70 of them ready (all with -o json)\n"), "{text}");
    }
}
