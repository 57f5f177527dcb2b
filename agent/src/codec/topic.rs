//! Topics and the sources whose filters match them: a trie of levels, and a bounded memory of topics already looked up.

use std::{collections::HashMap, sync::Arc};

/// Topics remembered before the memory begins anew.
const CACHED_TOPICS: usize = 4096;

/// A source of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) model: usize,
    pub(crate) source: usize,
}

/// Whether `topic` is one that may be published to.
#[must_use]
pub fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= 65_535 && !topic.contains(['+', '#', '\0'])
}

#[derive(Debug, Default)]
struct Level {
    named: HashMap<Box<str>, Level>,
    any: Option<Box<Level>>,
    rest: Vec<Route>,
    here: Vec<Route>,
}

/// All sources by their filters.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    root: Level,
}

impl Routes {
    pub(crate) fn insert(&mut self, filter: &str, route: Route) {
        let mut level = &mut self.root;
        for step in filter.split('/') {
            level = match step {
                "#" => {
                    level.rest.push(route);
                    return;
                }
                "+" => level.any.get_or_insert_default(),
                name => level.named.entry(name.into()).or_default(),
            };
        }
        level.here.push(route);
    }

    /// The sources whose filters match, in the order of models and sources. Topics that begin with `$` are matched only by name.
    pub(crate) fn find(&self, topic: &str) -> Vec<Route> {
        let mut found = Vec::new();
        let steps: Vec<_> = topic.split('/').collect();
        walk(&self.root, &steps, topic.starts_with('$'), &mut found);
        found.sort_by_key(|route| (route.model, route.source));
        found
    }
}

fn walk(level: &Level, steps: &[&str], system: bool, found: &mut Vec<Route>) {
    if !system {
        found.extend(&level.rest);
    }
    let Some((step, deeper)) = steps.split_first() else {
        found.extend(&level.here);
        return;
    };
    if let Some(named) = level.named.get(*step) {
        walk(named, deeper, false, found);
    }
    if let Some(any) = level.any.as_deref().filter(|_| !system) {
        walk(any, deeper, false, found);
    }
}

/// Remembers what [`Routes::find`] said.
#[derive(Debug, Default)]
pub(crate) struct TopicCache {
    topics: HashMap<Box<str>, Arc<[Route]>>,
}

impl TopicCache {
    pub(crate) fn find(&mut self, routes: &Routes, topic: &str) -> Arc<[Route]> {
        if let Some(found) = self.topics.get(topic) {
            return Arc::clone(found);
        }
        let found: Arc<[Route]> = routes.find(topic).into();
        if self.topics.len() >= CACHED_TOPICS {
            self.topics.clear();
        }
        // Topics that lead nowhere and very long ones are not remembered: anyone can make them up.
        if !found.is_empty() && topic.len() <= 256 {
            self.topics.insert(topic.into(), Arc::clone(&found));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, topic: &str) -> bool {
        let mut routes = Routes::default();
        routes.insert(filter, Route { model: 0, source: 0 });
        !routes.find(topic).is_empty()
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("#", "a/b"),
            ("+/b", "a/b"),
            ("+/+", "/x"),
            ("/+", "/x"),
            ("$SYS/#", "$SYS/x"),
            ("a/+/c", "a//c"),
            ("+", "a"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("+", "/x"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("a/b", "a/B"),
            ("a", "a/b"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn malformed_topics_are_told() {
        assert!(is_topic("a/b") && !is_topic("a/+") && !is_topic("") && !is_topic("a#"));
    }
}
