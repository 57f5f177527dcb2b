//! Which generations there are, told by their names alone: `manifests/<incarnation>-<position>-<time>.json`.

use depin_domain::time::Timestamp;

use crate::{
    manifest::Manifest,
    store::{Store, StoreError},
};

/// Folder of the manifests.
const FOLDER: &str = "manifests/";

/// A generation's name. Their order is that of the ledger's life: the newest is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Incarnation of the ledger.
    pub incarnation: u64,
    /// Everything before this position is in it.
    pub position: u64,
    /// The ledger's clock when it began.
    pub at: Timestamp,
}

impl Generation {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        Self { incarnation: manifest.incarnation, position: manifest.position, at: Timestamp(manifest.at) }
    }

    /// Key of its manifest.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{FOLDER}{:020}-{:020}-{:015}.json", self.incarnation, self.position, self.at.0)
    }

    /// The generation whose manifest this is.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        let mut numbers = key.strip_prefix(FOLDER)?.strip_suffix(".json")?.splitn(3, '-');
        let incarnation = numbers.next()?.parse().ok()?;
        let position = numbers.next()?.parse().ok()?;
        let at = Timestamp(numbers.next()?.parse().ok()?);
        let parsed = Self { incarnation, position, at };
        (parsed.key() == key).then_some(parsed)
    }

    /// All generations, oldest first.
    ///
    /// # Errors
    /// Where the store does not tell.
    pub async fn list(store: &dyn Store) -> Result<Vec<Self>, StoreError> {
        let mut found: Vec<_> =
            store.list(FOLDER).await?.iter().filter_map(|listed| Self::parse(&listed.key)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Its manifest.
    ///
    /// # Errors
    /// Where it is not there, or not what was written.
    pub async fn read(&self, store: &dyn Store) -> Result<Manifest, StoreError> {
        let key = self.key();
        let manifest = Manifest::decode(&key, &store.get(&key).await?)?;
        if Self::of(&manifest) != *self {
            return Err(StoreError::Damaged(format!("{key} is the manifest of another generation")));
        }
        Ok(manifest)
    }
}

/// The newest generation, or the newest that is not younger than `at`.
///
/// # Errors
/// Where there is none.
pub fn choose(generations: &[Generation], at: Option<Timestamp>) -> Result<Generation, StoreError> {
    let chosen = match at {
        None => generations.iter().max(),
        Some(at) => generations.iter().filter(|one| one.at <= at).max_by_key(|one| (one.at, **one)),
    };
    let oldest = generations.iter().map(|one| one.at).min();
    chosen.copied().ok_or_else(|| {
        StoreError::NotFound(match (at, oldest) {
            (Some(at), Some(oldest)) => {
                format!("a backup that is as old as {} (the oldest is of {})", shown(at), shown(oldest))
            }
            _ => "a backup".to_owned(),
        })
    })
}

/// A time as people write it.
fn shown(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| format!("{} ms", at.0), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(incarnation: u64, position: u64, at: i64) -> Generation {
        Generation { incarnation, position, at: Timestamp(at) }
    }

    #[test]
    fn names_sort_as_the_ledger_lives_and_are_read_back() {
        let mut all = [of(1, 9, 5), of(1, 10, 7), of(2, 3, 6), of(10, 1, 1_800_000_000_000)];
        let keys: Vec<_> = all.iter().map(Generation::key).collect();
        assert!(keys.is_sorted());
        assert_eq!(keys.iter().map(|key| Generation::parse(key).unwrap()).collect::<Vec<_>>(), all);
        all.sort_unstable();
        assert_eq!(all[3].incarnation, 10);
        for other in ["manifests/1-2-3.json", "manifests/x.json", "data/1", "manifests/"] {
            assert_eq!(Generation::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_time_asks_for_what_was_then_whatever_came_of_it() {
        // Restored at 250 from what was at 100.
        let all = [of(1, 10, 100), of(1, 20, 200), of(2, 15, 300)];
        assert_eq!(choose(&all, None), Ok(all[2]));
        assert_eq!(choose(&all, Some(Timestamp(299))), Ok(all[1]));
        assert_eq!(choose(&all, Some(Timestamp(100))), Ok(all[0]));
        assert!(choose(&all, Some(Timestamp(99))).unwrap_err().to_string().contains("the oldest"));
        assert!(choose(&[], None).is_err());
    }
}
