//! Which cadence slots of a grain hold an accepted reading.

/// A set of slot numbers. Up to 64 slots take eight bytes and no allocation.
#[derive(Clone, Debug)]
pub enum Slots {
    /// Slots 0 to 63.
    Few(u64),
    /// Any slots, 64 a word.
    // Boxed twice so that a statistic does not grow by the length of a slice.
    #[allow(clippy::box_collection, reason = "a thin pointer: millions of statistics are in memory")]
    Many(Box<Vec<u64>>),
}

impl Default for Slots {
    fn default() -> Self {
        Self::Few(0)
    }
}

impl PartialEq for Slots {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (self.words(), other.words());
        let longest = left.len().max(right.len());
        (0..longest).all(|index| left.get(index).unwrap_or(&0) == right.get(index).unwrap_or(&0))
    }
}

impl Eq for Slots {}

impl Slots {
    /// The words of the set, slot 0 in the lowest bit of the first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        match self {
            Self::Few(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }

    /// Whether slot `number` is taken.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.words().get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Takes slot `number`.
    pub fn insert(&mut self, number: u32) {
        let (place, bit) = (number as usize / 64, 1 << (number % 64));
        match self {
            Self::Few(word) if place == 0 => *word |= bit,
            Self::Few(word) => {
                let mut words = vec![*word];
                words.resize(place + 1, 0);
                words[place] = bit;
                *self = Self::Many(Box::new(words));
            }
            Self::Many(words) => {
                if words.len() <= place {
                    words.resize(place + 1, 0);
                }
                words[place] |= bit;
            }
        }
    }

    /// Takes every slot that `other` has.
    pub fn union(&mut self, other: &Self) {
        if let (Self::Few(word), Self::Few(more)) = (&mut *self, other) {
            *word |= more;
            return;
        }
        let (left, right) = (self.words(), other.words());
        let mut words = left.to_vec();
        words.resize(left.len().max(right.len()), 0);
        words.iter_mut().zip(right).for_each(|(word, more)| *word |= more);
        *self = Self::Many(Box::new(words));
    }

    /// How many slots are taken.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words().iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// As in the wire format: bit i of the little-endian bytes is slot i; no trailing zero bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words().iter().flat_map(|word| word.to_le_bytes()).collect();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        bytes
    }

    /// The reverse of [`to_bytes`](Self::to_bytes); any length is taken.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            })
            .collect();
        while words.last() == Some(&0) {
            words.pop();
        }
        match words.as_slice() {
            [] => Self::Few(0),
            [word] => Self::Few(*word),
            _ => Self::Many(Box::new(words)),
        }
    }
}
