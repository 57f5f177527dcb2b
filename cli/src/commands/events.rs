//! `events`: what was told about an object and all that hangs below it, oldest first.

use std::collections::BTreeSet;

use depin_domain::time::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use super::family::Objects;
use crate::{
    args::HeadingsFlag,
    cluster::Cluster,
    fault::Fault,
    output::{Report, Table, ago, when},
};

/// Events of one answer.
const PAGE: u32 = 500;

pub(super) async fn run(cluster: &Cluster, meant: Option<&str>, headings: HeadingsFlag) -> Result<Report, Fault> {
    let of = match meant {
        Some(meant) => {
            let family = Objects::fetch(cluster).await?.family(meant)?;
            Some(family.all().iter().map(|member| (member.kind.to_owned(), member.name.clone())).collect())
        }
        None => None,
    };
    let mut events = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = cluster.own::<Event>().list(&page).await?;
        events.extend(list.items.into_iter().filter(|event| concerns(event, of.as_ref())));
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => break,
        }
    }
    events.sort_by_key(|event| (last(event), event.name_any()));
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    let mut table = Table::new(["LAST", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"]).headed(headings);
    for event in &events {
        table.row([
            ago(last(event), now),
            event.type_.clone().unwrap_or_default(),
            event.reason.clone().unwrap_or_default(),
            object(event),
            count(event).to_string(),
            event.note.clone().unwrap_or_default(),
        ]);
    }
    let values: Vec<Value> = events.iter().map(value).collect();
    Ok(Report::new(values.into(), table.or("No event is kept: the API server forgets them after an hour.\n")))
}

fn value(event: &Event) -> Value {
    json!({
        "last": when(last(event)), "type": event.type_, "reason": event.reason, "object": object(event),
        "count": count(event), "message": event.note,
    })
}

/// Of our own kinds: of these objects, or of any.
fn concerns(event: &Event, of: Option<&BTreeSet<(String, String)>>) -> bool {
    let Some(regarding) = &event.regarding else { return false };
    let (kind, name) = (regarding.kind.clone().unwrap_or_default(), regarding.name.clone().unwrap_or_default());
    match of {
        Some(of) => of.contains(&(kind, name)),
        None => {
            regarding.api_version.as_deref().is_some_and(|version| version.split('/').next() == Some(depin_crds::GROUP))
        }
    }
}

fn object(event: &Event) -> String {
    let regarding = event.regarding.clone().unwrap_or_default();
    format!("{}/{}", regarding.kind.unwrap_or_default(), regarding.name.unwrap_or_default())
}

fn count(event: &Event) -> i32 {
    event.series.as_ref().map(|series| series.count).or(event.deprecated_count).unwrap_or(1)
}

/// When it was told last.
fn last(event: &Event) -> Timestamp {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let first = || event.event_time.as_ref().map(|time| time.0);
    let old = || event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    Timestamp(series.or_else(first).or_else(old).map_or(0, |time| time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::{core::v1::ObjectReference, events::v1::EventSeries},
        apimachinery::pkg::apis::meta::v1::MicroTime,
    };

    use super::*;

    fn event(kind: &str, name: &str, group: &str) -> Event {
        Event {
            regarding: Some(ObjectReference {
                kind: Some(kind.into()),
                name: Some(name.into()),
                api_version: Some(format!("{group}/v1")),
                ..ObjectReference::default()
            }),
            ..Event::default()
        }
    }

    #[test]
    fn only_the_familys_events_are_shown() {
        let of = BTreeSet::from([("EdgeDevice".to_owned(), "a".to_owned())]);
        assert!(concerns(&event("EdgeDevice", "a", "depin.dev"), Some(&of)));
        assert!(!concerns(&event("EdgeDevice", "b", "depin.dev"), Some(&of)));
        assert!(!concerns(&event("EdgeAgent", "a", "depin.dev"), Some(&of)));
        assert!(concerns(&event("EdgeAgent", "b", "depin.dev"), None));
        assert!(!concerns(&event("Pod", "b", "apps"), None) && !concerns(&Event::default(), None));
    }

    #[test]
    fn a_series_tells_its_last_time_and_count() {
        let at = |ms| MicroTime(jiff::Timestamp::from_millisecond(ms).unwrap());
        let single = Event { event_time: Some(at(1_000)), ..Event::default() };
        assert_eq!((last(&single), count(&single)), (Timestamp(1_000), 1));
        let series = Event { series: Some(EventSeries { count: 7, last_observed_time: at(9_000) }), ..single };
        assert_eq!((last(&series), count(&series)), (Timestamp(9_000), 7));
    }
}
