//! Topic filters of which no two match the same topic. Pure.
//!
//! A broker may send a message once for each subscription that matches it, and nothing in the copies says that they are one message. So
//! of two filters that overlap, the one that the other covers is left out, and two that overlap in part become the narrowest one that
//! covers both.

/// The narrowest filters that match whatever these match, each topic only once.
pub(super) fn apart(filters: &[String]) -> Vec<String> {
    let mut apart: Vec<String> = Vec::with_capacity(filters.len());
    for filter in filters {
        let mut filter = filter.clone();
        // What became wider may overlap others that it did not overlap before.
        while let Some(at) = apart.iter().position(|other| overlap(other, &filter)) {
            filter = join(&apart.swap_remove(at), &filter);
        }
        apart.push(filter);
    }
    apart.sort();
    apart
}

/// Whether some topic matches both. A wildcard at the start matches no topic that begins with `$`.
fn overlap(one: &str, other: &str) -> bool {
    let wild = |filter: &str| filter.starts_with(['+', '#']);
    if (one.starts_with('$') && wild(other)) || (other.starts_with('$') && wild(one)) {
        return false;
    }
    let (mut ones, mut others) = (one.split('/'), other.split('/'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

/// The narrowest filter that covers both, which overlap: where one covers the other, that one.
fn join(one: &str, other: &str) -> String {
    let mut levels = Vec::new();
    let (mut ones, mut others) = (one.split('/'), other.split('/'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b && a != "#" => levels.push(a),
            (Some(a), Some(b)) if a != "#" && b != "#" => levels.push("+"),
            // `#` stands for the level before it too, so a filter that ends here is covered.
            _ => {
                levels.push("#");
                break;
            }
        }
    }
    levels.join("/")
}

#[cfg(test)]
mod tests {
    use depin_trials::below;

    use super::*;

    fn of(filters: &[&str]) -> Vec<String> {
        apart(&filters.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>())
    }

    /// As the standard says, level by level.
    fn matches(filter: &str, topic: &str) -> bool {
        if topic.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
        let levels = filter.iter().zip(&topic).take_while(|(level, _)| **level != "#");
        let same = levels.clone().all(|(level, step)| *level == "+" || level == step);
        match filter.last() {
            Some(&"#") => same && topic.len() + 1 >= filter.len() && levels.count() == filter.len() - 1,
            _ => same && topic.len() == filter.len(),
        }
    }

    #[test]
    fn filters_that_another_covers_are_left_out() {
        assert_eq!(of(&["m/+/state", "m/a/state", "m/+/state"]), ["m/+/state"]);
        assert_eq!(of(&["m/a", "m/#"]), ["m/#"]);
        assert_eq!(of(&["m", "m/#"]), ["m/#"]);
        assert_eq!(of(&["a/b", "c/d", "#"]), ["#"]);
        assert_eq!(of(&["+/#", "#"]), ["#"]);
        assert_eq!(of(&["a/b", "a/c"]), ["a/b", "a/c"]);
        assert_eq!(of(&["$SYS/broker/uptime", "#"]), ["#", "$SYS/broker/uptime"]);
        assert_eq!(of(&["$share/g/a/#", "+/b"]), ["$share/g/a/#", "+/b"]);
    }

    #[test]
    fn filters_that_overlap_in_part_become_one() {
        assert_eq!(of(&["a/+", "+/b"]), ["+/+"]);
        assert_eq!(of(&["tele/+/SENSOR", "tele/roof/+", "x"]), ["tele/+/+", "x"]);
        assert_eq!(of(&["a/+/c", "a/b/#"]), ["a/+/#"]);
        // The two become wider than a third one, which they did not overlap.
        assert_eq!(of(&["c/d", "a/+", "+/b"]), ["+/+"]);
    }

    #[test]
    fn every_topic_is_matched_as_before_and_once() {
        depin_trials::run("filters apart", |rng| {
            let mut pick = |from: &[&str]| {
                let levels = 1 + below(rng, 3);
                let level = |_| from[usize::try_from(below(rng, from.len() as u64)).unwrap()].to_owned();
                (0..levels).map(level).collect::<Vec<_>>().join("/")
            };
            let mut filters: Vec<_> = (0..5).map(|_| pick(&["a", "b", "+", "$x"])).collect();
            filters.extend((0..2).map(|_| format!("{}/#", pick(&["a", "b", "+"]))));
            let apart = apart(&filters);
            for _ in 0..50 {
                let topic = pick(&["a", "b", "$x"]);
                let wanted = filters.iter().any(|filter| matches(filter, &topic));
                let times = apart.iter().filter(|filter| matches(filter, &topic)).count();
                assert!(times <= 1 && (times == 1 || !wanted), "{topic}: {filters:?} became {apart:?}");
            }
        });
    }
}
