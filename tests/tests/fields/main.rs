//! Every field of every kind's spec, on the live system: what it may hold is followed by the state, there and back; what it may not hold the
//! API server refuses, or a condition names it. Nothing panics, nothing is written again and again, nothing is left.
//!
//! What is tried stands in `table/`, a file for each kind, and every field of `crds/yaml` stands there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod edit;
mod ledger;
mod probes;
mod round;
mod schema;
mod site;
mod table;

use std::collections::BTreeSet;

use depin_domain::ids::Digest;
use depin_tests::tools::Tools;
use edit::set;
use schema::{Against, definitions};
use site::Site;
use table::{Field, Table, tables};
use tokio::runtime::Runtime;

/// However short a slice of time is.
const LEAST_ROUNDS: u64 = 12;

#[test]
fn every_field_stands_in_the_table_and_the_table_names_no_other() {
    let fields = definitions().into_iter().flat_map(|definition| {
        let fields = definition.fields().into_iter();
        fields.map(move |field| format!("{} {field}", definition.kind)).collect::<Vec<_>>()
    });
    let fields: BTreeSet<String> = fields.collect();
    assert!(fields.len() > 100, "{fields:?}");
    let mut known = BTreeSet::new();
    for (table, field) in tables().iter().flat_map(|table| table.fields.iter().map(move |field| (table, field))) {
        let name = format!("{} {}", table.kind, field.field);
        let answers = field.valid.len() + field.wrong.len();
        assert!(answers > 0, "{name} has no value");
        for wrong in &field.wrong {
            let answers = [&wrong.refused, &wrong.told, &wrong.waits];
            assert_eq!(answers.iter().filter(|answer| answer.is_some()).count(), 1, "{name}: {wrong:?}");
        }
        assert!(known.insert(name.clone()), "{name} stands twice");
    }
    let missing: Vec<_> = fields.difference(&known).collect();
    let unknown: Vec<_> = known.difference(&fields).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "without an entry: {missing:?}; without a field: {unknown:?}");
}

#[test]
fn every_field_is_followed_or_its_mistake_is_named() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let mut site = Site::start(dir.path(), &runtime);
    let tables = tables();
    let refused = runtime.block_on(refuse(&mut site, &tables));
    println!("note fields: the API server refused {refused} values that the schemas speak against, each by its field");

    let order = order(&tables);
    let (mut round, mut done) = (number("DEPIN_TRIAL_FIRST", 0), BTreeSet::new());
    depin_trials::run_at_least("fields on the live system", LEAST_ROUNDS, |_| {
        let (table, field) = order[usize::try_from(round).unwrap() % order.len()];
        println!("  round {round}: {} {}", table.kind, field.field);
        runtime.block_on(site.field(table, field));
        done.insert((&table.kind, &field.field));
        round += 1;
    });
    println!("note fields: {} of {} were changed and changed back on the live system", done.len(), order.len());
    site.stack.stop().unwrap();
}

/// All fields in an order of the seed: a slice of time has others with another seed, as many rounds as there are fields have all of them.
fn order(tables: &[Table]) -> Vec<(&Table, &Field)> {
    let seed = number("DEPIN_TRIAL_SEED", 1);
    let mut order: Vec<_> =
        tables.iter().flat_map(|table| table.fields.iter().map(move |field| (table, field))).collect();
    order.sort_by_key(|(table, field)| Digest::of(format!("{seed} {} {}", table.kind, field.field).as_bytes()));
    order
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Everything that the schemas speak against is refused by the field's name, and the operator never hears of it. How many values that were.
async fn refuse(site: &mut Site, tables: &[Table]) -> usize {
    let (before, counted) = (site.picture().await, site.counted());
    let mut count = 0;
    for definition in site.definitions() {
        let table = tables.iter().find(|table| table.kind == definition.kind).unwrap();
        for against in definition.against() {
            let name = live(table, &against);
            let spec = site.get(&table.kind, name).await.data["spec"].clone();
            let mut wrong = spec.clone();
            set(&mut wrong, &against.pointer, against.value.clone());
            match site.change(&table.kind, name, &spec, &wrong).await {
                Err(kube::Error::Api(status)) if status.code == 422 => {
                    let named = status.message.contains(&format!("{}:", against.path));
                    assert!(named, "{} {against:?}: {}", table.kind, status.message);
                }
                other => panic!("{} {against:?} was not refused: {other:?}", table.kind),
            }
            count += 1;
        }
    }
    assert_eq!(site.picture().await, before, "what was refused changed something");
    site.rest().await;
    let writes = site.counted().writes_since(&counted);
    assert!(writes < 1.0, "{writes} status writes for what was refused");
    count
}

/// The object on which a value is tried: an enrollment is either an invitation or a plea.
fn live<'a>(table: &'a Table, against: &Against) -> &'a str {
    let path = against.path.replace("[0]", "[]");
    let field = table.fields.iter().find(|field| field.field.starts_with(&path));
    field.and_then(|field| field.live.as_ref()).unwrap_or(&table.live)
}
