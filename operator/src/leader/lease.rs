//! Who leads, by a Lease. Pure: what a look at the Lease means, and what is written then.
//!
//! Clocks differ between machines: how old a renewal is, is measured by the time at which this operator saw it change, never by the
//! other's clock.

use std::time::Duration;

use depin_domain::time::Timestamp;
use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime};

/// How long a leader that says nothing is believed.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often the leader renews and others look.
pub const RENEW: Duration = Duration::from_secs(3);
/// After this long without a successful renewal a leader stops, safely before others may take over.
pub const GIVE_UP: Duration = Duration::from_secs(10);

/// A renewal of someone else's, and when this operator first saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    transitions: Option<i32>,
    at: Timestamp,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// This operator leads: renew with this spec.
    Renew(LeaseSpec),
    /// Nobody leads (any more): try to take it with this spec.
    Take(LeaseSpec),
    /// Someone else leads.
    Wait,
}

/// What the Lease's `spec` means to `me` at `now`; `seen` is what the look before remembered and is brought up to date.
#[must_use]
pub fn evaluate_lease(spec: Option<&LeaseSpec>, seen: &mut Option<Seen>, me: &str, now: Timestamp) -> Step {
    let Some(spec) = spec else { return Step::Take(fresh(None, me, now)) };
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
    if holder == Some(me) {
        *seen = None;
        let renewed = LeaseSpec { renew_time: micro(now), lease_duration_seconds: Some(seconds()), ..spec.clone() };
        return Step::Renew(renewed);
    }
    let looked = Seen {
        holder: holder.map(str::to_owned),
        renewed: spec.renew_time.clone(),
        transitions: spec.lease_transitions,
        at: now,
    };
    let first_seen = match seen {
        Some(before)
            if (&before.holder, &before.renewed, before.transitions)
                == (&looked.holder, &looked.renewed, looked.transitions) =>
        {
            before.at
        }
        _ => {
            *seen = Some(looked);
            now
        }
    };
    let length = i64::from(spec.lease_duration_seconds.unwrap_or_else(seconds).max(1)) * 1000;
    if holder.is_none() || now.since(first_seen) > length {
        return Step::Take(fresh(Some(spec), me, now));
    }
    Step::Wait
}

/// The Lease as a leader leaves it that stops on purpose: nobody holds it, so that the next need not wait.
#[must_use]
pub fn released(spec: &LeaseSpec) -> LeaseSpec {
    LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec.clone() }
}

fn fresh(before: Option<&LeaseSpec>, me: &str, now: Timestamp) -> LeaseSpec {
    let transitions = before.map_or(0, |before| before.lease_transitions.unwrap_or(0).saturating_add(1));
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(seconds()),
        acquire_time: micro(now),
        renew_time: micro(now),
        lease_transitions: Some(transitions),
        ..before.cloned().unwrap_or_default()
    }
}

fn seconds() -> i32 {
    i32::try_from(LEASE.as_secs()).unwrap_or(i32::MAX)
}

fn micro(at: Timestamp) -> Option<MicroTime> {
    jiff::Timestamp::from_millisecond(at.0).ok().map(MicroTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec { renew_time: micro(Timestamp(renewed)), ..fresh(None, by, Timestamp(0)) }
    }

    #[test]
    fn what_a_look_means() {
        let mut seen = None;
        assert!(matches!(evaluate_lease(None, &mut seen, "a", Timestamp(0)), Step::Take(_)), "no Lease yet");
        let mine = held("a", 0);
        let Step::Renew(renewed) = evaluate_lease(Some(&mine), &mut seen, "a", Timestamp(5_000)) else {
            unreachable!()
        };
        assert_eq!((renewed.renew_time, renewed.lease_transitions), (micro(Timestamp(5_000)), Some(0)));
        let other = held("b", 0);
        assert_eq!(evaluate_lease(Some(&other), &mut seen, "a", Timestamp(0)), Step::Wait, "first seen now");
        assert_eq!(evaluate_lease(Some(&other), &mut seen, "a", Timestamp(15_000)), Step::Wait, "the last moment");
        let Step::Take(taken) = evaluate_lease(Some(&other), &mut seen, "a", Timestamp(15_001)) else { unreachable!() };
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("a"), Some(1)));
        let empty = released(&other);
        assert!(matches!(evaluate_lease(Some(&empty), &mut seen, "a", Timestamp(0)), Step::Take(_)), "released");
    }

    #[test]
    fn a_renewal_starts_the_wait_anew() {
        let mut seen = None;
        assert_eq!(evaluate_lease(Some(&held("b", 0)), &mut seen, "a", Timestamp(0)), Step::Wait);
        assert_eq!(evaluate_lease(Some(&held("b", 1)), &mut seen, "a", Timestamp(14_000)), Step::Wait);
        assert_eq!(evaluate_lease(Some(&held("b", 1)), &mut seen, "a", Timestamp(28_000)), Step::Wait);
        assert!(matches!(evaluate_lease(Some(&held("b", 1)), &mut seen, "a", Timestamp(29_001)), Step::Take(_)));
    }

    #[test]
    fn a_clock_that_is_wrong_by_a_year_takes_nothing() {
        let mut seen = None;
        let year = 365 * 86_400_000;
        assert_eq!(evaluate_lease(Some(&held("b", 0)), &mut seen, "a", Timestamp(year)), Step::Wait);
    }

    /// Two operators with skewed clocks, lost renewals and an API server that orders writes by resourceVersion: never both lead.
    #[test]
    fn two_never_lead_at_once() {
        depin_trials::run("lease simulation", |random| {
            struct Operator {
                name: &'static str,
                skew: i64,
                seen: Option<Seen>,
                leads_until: Option<i64>,
            }
            let mut operators =
                [("a", depin_trials::below(random, 1_000_000)), ("b", depin_trials::below(random, 1_000_000))].map(
                    |(name, skew)| Operator {
                        name,
                        skew: i64::try_from(skew).unwrap_or(0),
                        seen: None,
                        leads_until: None,
                    },
                );
            let mut stored: Option<LeaseSpec> = None;
            let mut now = 0_i64;
            for _ in 0..200 {
                now += i64::try_from(depin_trials::below(random, 4_000)).unwrap_or(0);
                let index = usize::from(depin_trials::one_in(random, 2));
                for operator in &mut operators {
                    operator.leads_until = operator.leads_until.filter(|until| *until > now);
                }
                let operator = &mut operators[index];
                // The write may be lost on its way: the operator then knows nothing and leads only as long as before.
                let lost = depin_trials::one_in(random, 4);
                let step =
                    evaluate_lease(stored.as_ref(), &mut operator.seen, operator.name, Timestamp(now + operator.skew));
                if let (Step::Renew(spec) | Step::Take(spec), false) = (step, lost) {
                    stored = Some(spec);
                    operator.leads_until = Some(now + i64::try_from(GIVE_UP.as_millis()).unwrap_or(0));
                }
                let leading = operators.iter().filter(|operator| operator.leads_until.is_some()).count();
                assert!(leading <= 1, "at {now}: both lead");
            }
        });
    }
}
