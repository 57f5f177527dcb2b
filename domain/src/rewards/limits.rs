//! Who counts where places are scarce.
//!
//! At the close devices are ranked and admitted or not; that is frozen. Late readings cannot push anyone out: a device that was not
//! admitted and whose weight they raise gets a part of the room that its cell had left, shared evenly among all such
//! claims, or nothing where there is none. Without late readings a refusal stands, also where a later limit left room.

mod distance;

use std::{cmp::Reverse, collections::HashMap};

use self::distance::Spacing;
use super::{
    input::{DeviceInput, Place},
    program::Program,
    result::ZeroReason,
    spec::Limit,
};

/// A device that wants to count, with what ranks it.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) device: &'a DeviceInput,
    pub(super) features: &'a [Option<i64>],
}

impl Candidate<'_> {
    /// Smaller is better: larger feature (absent last), earlier sighting, smaller id.
    fn rank(&self, feature: Option<usize>) -> impl Ord {
        let value = feature.map(|feature| self.features.get(feature).copied().flatten());
        (Reverse(value), self.device.since, self.device.id)
    }
}

/// Decides which candidates count; the answer stands at the candidate's place, none for those that do.
pub(super) fn admit(program: &Program, candidates: &[Candidate<'_>]) -> Vec<Option<ZeroReason>> {
    let mut refused = vec![None; candidates.len()];
    for (limit, rank) in program.spec().limits.iter().zip(program.ranks()) {
        let ranked = ranked(candidates, &mut refused, *rank);
        match limit {
            Limit::HexCapacity { capacity, .. } => {
                let mut taken: HashMap<u64, u32> = HashMap::new();
                for (index, place) in ranked {
                    let cell = taken.entry(place.cell).or_default();
                    if *cell < *capacity {
                        *cell += 1;
                    } else {
                        refused[index] = Some(ZeroReason::CellFull);
                    }
                }
            }
            Limit::MinimumDistance { metres, .. } => {
                let mut spacing = Spacing::new(*metres);
                for (index, place) in ranked {
                    if !spacing.take(place.unit) {
                        refused[index] = Some(ZeroReason::TooClose);
                    }
                }
            }
        }
    }
    refused
}

/// What a late claim gets: `room / claims` of its weight, or a reason.
pub(super) type Claim = Result<(u64, u64), ZeroReason>;

/// Shares what the admitted devices left over among late claims; the answer stands at the claim's place.
pub(super) fn claims(program: &Program, admitted: &[Candidate<'_>], late: &[Candidate<'_>]) -> Vec<Claim> {
    let mut refused = vec![None; late.len()];
    let mut parts = vec![(1, 1); late.len()];
    for (limit, rank) in program.spec().limits.iter().zip(program.ranks()) {
        let ranked = ranked(late, &mut refused, *rank);
        let standing = admitted.iter().filter_map(|candidate| candidate.device.place);
        match limit {
            Limit::HexCapacity { capacity, .. } => {
                let mut taken: HashMap<u64, u64> = HashMap::new();
                standing.for_each(|place| *taken.entry(place.cell).or_default() += 1);
                let mut wanted: HashMap<u64, u64> = HashMap::new();
                ranked.iter().for_each(|(_, place)| *wanted.entry(place.cell).or_default() += 1);
                for (index, place) in ranked {
                    let room = u64::from(*capacity).saturating_sub(taken.get(&place.cell).copied().unwrap_or(0));
                    let wanted = wanted.get(&place.cell).copied().unwrap_or(1);
                    if room == 0 {
                        refused[index] = Some(ZeroReason::CapacityTaken);
                    } else {
                        parts[index] = (room.min(wanted), wanted);
                    }
                }
            }
            Limit::MinimumDistance { metres, .. } => {
                let mut spacing = Spacing::new(*metres);
                standing.for_each(|place| spacing.stand(place.unit));
                for (index, place) in ranked {
                    if !spacing.take(place.unit) {
                        refused[index] = Some(ZeroReason::CapacityTaken);
                    }
                }
            }
        }
    }
    refused.into_iter().zip(parts).map(|(refused, part)| refused.map_or(Ok(part), Err)).collect()
}

/// The places of those not yet refused, best first; who has none is refused here.
fn ranked(
    candidates: &[Candidate<'_>],
    refused: &mut [Option<ZeroReason>],
    feature: Option<usize>,
) -> Vec<(usize, Place)> {
    let mut ranked = Vec::with_capacity(candidates.len());
    for (index, candidate) in candidates.iter().enumerate() {
        match candidate.device.place {
            _ if refused[index].is_some() => {}
            Some(place) => ranked.push((index, place)),
            None => refused[index] = Some(ZeroReason::NoLocation),
        }
    }
    ranked.sort_by_cached_key(|(index, _)| candidates[*index].rank(feature));
    ranked
}

#[cfg(test)]
mod tests;
