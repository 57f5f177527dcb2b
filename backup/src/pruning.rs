//! Removing old generations, and objects that none names any more.
//!
//! Of the last day every generation stays, of the days before the last one of each, and nothing older than what is asked for, but the
//! newest always. A manifest goes before its objects, so that none ever names what is gone.

use std::collections::{BTreeMap, BTreeSet};

use depin_domain::time::Timestamp;

use crate::{
    generations::Generation,
    manifest::Manifest,
    store::{Store, StoreError},
};

const DAY_MS: i64 = 24 * 3_600_000;

/// Generations that may go.
fn expendable(generations: &[Generation], now: Timestamp, keep_ms: i64) -> Vec<Generation> {
    let newest = generations.iter().max();
    let mut last_of_day: BTreeMap<(u64, i64), Generation> = BTreeMap::new();
    for one in generations {
        let last = last_of_day.entry((one.incarnation, one.at.0.div_euclid(DAY_MS))).or_insert(*one);
        *last = (*last).max(*one);
    }
    let last_of_day: BTreeSet<_> = last_of_day.into_values().collect();
    let goes = |one: &&Generation| {
        let age = now.0.saturating_sub(one.at.0);
        Some(*one) != newest && (age > keep_ms || (age > DAY_MS && !last_of_day.contains(one)))
    };
    generations.iter().filter(goes).copied().collect()
}

/// Knows which objects are named by which generations.
#[derive(Debug, Default)]
pub(crate) struct Pruner {
    known: BTreeSet<Generation>,
    /// How many generations name an object.
    references: BTreeMap<String, u32>,
    /// What interrupted backups left was removed once.
    swept: bool,
}

impl Pruner {
    /// Removes what may go, after `newest` was written. Answers how many generations went.
    pub(crate) async fn run(
        &mut self,
        store: &dyn Store,
        newest: &Manifest,
        now: Timestamp,
        keep_ms: i64,
    ) -> Result<u64, StoreError> {
        let generations = Generation::list(store).await?;
        if generations.last() != Some(&Generation::of(newest)) {
            // Somebody else goes on here: what is needed is theirs to say.
            return Ok(0);
        }
        if !self.known.iter().all(|known| generations.contains(known)) {
            *self = Self { swept: self.swept, ..Self::default() };
        }
        for one in generations.iter().filter(|one| !self.known.contains(one)).copied().collect::<Vec<_>>() {
            let read = if one == Generation::of(newest) { None } else { Some(one.read(store).await?) };
            for part in read.as_ref().unwrap_or(newest).objects() {
                *self.references.entry(part.object.clone()).or_default() += 1;
            }
            self.known.insert(one);
        }
        let expendable = expendable(&generations, now, keep_ms);
        for one in &expendable {
            self.remove(store, *one).await?;
        }
        if !self.swept {
            self.sweep(store, newest.incarnation).await?;
            self.swept = true;
        }
        Ok(expendable.len() as u64)
    }

    async fn remove(&mut self, store: &dyn Store, one: Generation) -> Result<(), StoreError> {
        let manifest = one.read(store).await?;
        store.remove(&one.key()).await?;
        self.known.remove(&one);
        // Should a removal fail, the sweep of the next start finds the rest.
        let swept = std::mem::take(&mut self.swept);
        for part in manifest.objects() {
            let Some(count) = self.references.get_mut(&part.object) else { continue };
            *count -= 1;
            if *count == 0 {
                self.references.remove(&part.object);
                store.remove(&part.object).await?;
            }
        }
        self.swept = swept;
        Ok(())
    }

    /// Removes what no generation names and this incarnation or an earlier one wrote.
    async fn sweep(&self, store: &dyn Store, incarnation: u64) -> Result<(), StoreError> {
        for folder in ["data/", "progress/"] {
            for listed in store.list(folder).await? {
                let name = listed.key.strip_prefix(folder).unwrap_or_default();
                let of = name.split_once('.').and_then(|(of, _)| of.parse::<u64>().ok());
                let ours = of.is_some_and(|of| of <= incarnation);
                if ours && !self.references.contains_key(&listed.key) {
                    store.remove(&listed.key).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_day_one_of_each_day_before_and_the_newest_always() {
        const HOUR: i64 = DAY_MS / 24;
        let now = Timestamp(100 * DAY_MS + 5 * HOUR);
        let of = |incarnation, hours_ago: i64| Generation {
            incarnation,
            position: (10_000 - hours_ago) as u64,
            at: now.plus(-hours_ago * HOUR),
        };
        let all: Vec<_> = (0..24 * 40).rev().map(|hours| of(1, hours)).collect();
        let gone = expendable(&all, now, 30 * DAY_MS);
        let kept: Vec<_> = all.iter().filter(|one| !gone.contains(one)).collect();
        let days = |kept: &[&Generation], from: i64, to: i64| {
            kept.iter().filter(|one| (from..to).contains(&((now.0 - one.at.0) / HOUR))).count()
        };
        assert_eq!(days(&kept, 0, 25), 25, "every one of the last day");
        assert_eq!(days(&kept, 25, 30 * 24 + 1), 29, "one a day");
        assert_eq!(days(&kept, 30 * 24 + 1, 24 * 40), 0);
        assert!(expendable(&[of(1, 24 * 400)], now, DAY_MS).is_empty(), "the only one");
        // The last one before a restore stays beside that of the restored ledger's day.
        let before_and_after = [of(1, 50), of(1, 49), of(2, 48), of(2, 47), of(2, 0)];
        let gone = expendable(&before_and_after, now, 30 * DAY_MS);
        assert!(gone.contains(&of(1, 50)) && !gone.contains(&of(1, 49)), "{gone:?}");
    }
}
