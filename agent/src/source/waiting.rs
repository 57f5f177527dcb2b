//! Messages that wait to be acknowledged, in the order in which they came.

use std::collections::VecDeque;

/// Packets with the ticket that must be durable first. A broker numbers them one after the other and a batch has one ticket, so runs of
/// them take the room of one: a broker that sends a backlog of a million messages at once costs next to nothing.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<Run>);

#[derive(Debug)]
struct Run {
    ticket: u64,
    first: u16,
    last: u16,
    count: u64,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest message's ticket.
    pub(super) fn newest(&self) -> Option<u64> {
        self.0.back().map(|run| run.ticket)
    }

    pub(super) fn push(&mut self, ticket: u64, packet: u16) {
        match self.0.back_mut() {
            Some(run) if run.ticket == ticket && after(run.last) == packet => {
                run.last = packet;
                run.count += 1;
            }
            _ => self.0.push_back(Run { ticket, first: packet, last: packet, count: 1 }),
        }
    }

    /// The oldest message's packet, if it may be acknowledged.
    pub(super) fn first(&self, durable: u64) -> Option<u16> {
        self.0.front().filter(|run| run.ticket <= durable).map(|run| run.first)
    }

    /// Forgets the oldest.
    pub(super) fn pop(&mut self) {
        if let Some(run) = self.0.front_mut() {
            run.first = after(run.first);
            run.count -= 1;
            if run.count == 0 {
                self.0.pop_front();
            }
        }
    }
}

/// Packet numbers go from 1 to 65,535 and begin again.
fn after(packet: u16) -> u16 {
    packet.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use depin_trials::below;

    use super::*;

    fn number(rng: &mut depin_trials::Rng) -> u16 {
        1 + u16::try_from(below(rng, 65_535)).unwrap()
    }

    #[test]
    fn every_packet_comes_out_once_in_order_and_not_before_it_is_durable() {
        depin_trials::run("waiting packets", |rng| {
            let (mut waiting, mut expected) = (Waiting::default(), VecDeque::new());
            let (mut ticket, mut durable, mut packet) = (1, 0, number(rng));
            for _ in 0..below(rng, 400) {
                match below(rng, 8) {
                    0 => ticket += 1,
                    1 => durable = ticket - below(rng, 2),
                    // A broker that delivers again, or skips what another one took.
                    2 => packet = number(rng),
                    3 => {
                        let first =
                            expected.front().filter(|(ticket, _)| *ticket <= durable).map(|(_, packet)| *packet);
                        assert_eq!(waiting.first(durable), first);
                        if first.is_some() {
                            waiting.pop();
                            expected.pop_front();
                        }
                    }
                    _ => {
                        waiting.push(ticket, packet);
                        expected.push_back((ticket, packet));
                        packet = after(packet);
                    }
                }
                assert_eq!(waiting.is_empty(), expected.is_empty());
                assert_eq!(waiting.newest(), expected.back().map(|(ticket, _)| *ticket));
            }
        });
    }

    #[test]
    fn a_backlog_that_comes_at_once_is_a_few_runs() {
        let mut waiting = Waiting::default();
        let mut packet = 65_000;
        for message in 0..1_000_000_u64 {
            waiting.push(message / 10_000, packet);
            packet = after(packet);
        }
        assert_eq!(waiting.0.len(), 100);
    }
}
