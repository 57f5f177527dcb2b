//! Work on many items by all cores. The result does not depend on how many there are: every item is worked on alone, in its place.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

/// More threads than this only wait for memory.
const MAX_THREADS: usize = 8;

/// Calls `work` with each item and its index. `chunk` items (at least one) are taken at a time; no more than that are worked on here
/// without further threads. Where no thread can be made, this one does everything.
pub(crate) fn for_each<T: Send>(items: &mut [T], chunk: usize, work: impl Fn(usize, &mut T) + Sync) {
    let chunk = chunk.max(1);
    let chunks = items.len().div_ceil(chunk);
    let waiting = Mutex::new(items.chunks_mut(chunk).enumerate());
    let take = || loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((number, items)) = next else { break };
        for (offset, item) in items.iter_mut().enumerate() {
            work(number * chunk + offset, item);
        }
    };
    let threads = if chunks < 2 { 1 } else { thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS) };
    thread::scope(|scope| {
        for _ in 1..threads.min(chunks) {
            if thread::Builder::new().spawn_scoped(scope, take).is_err() {
                break;
            }
        }
        take();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_at_its_place() {
        for (length, chunk) in [(0, 4), (1, 4), (4, 4), (5, 4), (1_000, 7), (10, 0)] {
            let mut items = vec![0; length];
            for_each(&mut items, chunk, |index, item| *item += index + 1);
            assert_eq!(items, (1..=length).collect::<Vec<_>>());
        }
    }
}
