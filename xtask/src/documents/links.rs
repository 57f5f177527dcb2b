//! Links in documents lead somewhere: to a file that exists, and there to a heading that exists.

use std::{collections::BTreeMap, fs, path::Path};

/// Links of a document that lead nowhere. `folder` is the document's.
pub(super) fn broken(text: &str, folder: &Path) -> Vec<String> {
    let mut links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect::<Vec<_>>();
    links.retain(|link| !link.contains("://") && !link.starts_with("mailto:"));
    // The API reference quotes patterns, in which a bracket may also be followed by a parenthesis.
    links.retain(|link| !link.contains(['\\', '[', '{', '`']));
    links.into_iter().filter(|link| !leads_somewhere(link, text, folder)).map(str::to_owned).collect()
}

fn leads_somewhere(link: &str, text: &str, folder: &Path) -> bool {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = folder.join(file);
    if !file.is_empty() && !path.exists() {
        return false;
    }
    if anchor.is_empty() {
        return true;
    }
    if file.is_empty() {
        return anchors(text).iter().any(|known| known == anchor);
    }
    // Only documents have headings; a line of source (#L7) is not looked for.
    let document = path.extension().is_some_and(|extension| extension == "md");
    !document || fs::read_to_string(&path).is_ok_and(|text| anchors(&text).iter().any(|known| known == anchor))
}

/// The anchors of a document's headings, as the usual renderers make them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let anchor: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect();
        let count = seen.entry(anchor.clone()).or_default();
        found.push(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_must_lead_somewhere() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("there.md"), "# A part: `of` it\n\n## Same\n\n## Same\n").unwrap();
        let text = "# Here\n[a](there.md#a-part-of-it) [b](gone.md) [c](https://example.org/x) [d](#here) [e](#gone) \
                    [f](there.md#same-1) [g](there.md#same-2) [h](there.md)";
        assert_eq!(broken(text, folder.path()), ["gone.md", "#gone", "there.md#same-2"]);
    }

    #[test]
    fn what_looks_like_a_heading_in_a_block_of_code_is_none() {
        assert_eq!(anchors("# One\n```sh\n# two\n```\n#three\n## Four & five\n"), ["one", "four--five"]);
    }
}
