//! The edges of the design's section 7a, each with exact sums: what counts, what does not and why, and what is paid.
//!
//! The real parts, joined in one process: agents that take MQTT into their spools, a gateway on loopback over an embedded ledger on disk, and
//! the operator's closing and computing. Time is passed in, so that a week takes a moment and every amount is known beforehand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod clocks;
mod disks;
mod limits;
mod link;
mod moves;
mod network;
mod orders;
mod outages;
mod site;
mod ways;
mod world;

use depin_domain::{model::Model, registry::Change, rewards::ProgramSpec};
use site::Site;
use world::World;

/// A world with a model, a fleet, a program, sites of these names, and meters 1, 2, … at the first, second, … of them.
async fn furnish<const N: usize>(world: &World, spec: &ProgramSpec, names: [&'static str; N]) -> [Site; N] {
    furnish_with(world, network::model(true), spec, names).await
}

/// The same with another model.
async fn furnish_with<const N: usize>(
    world: &World,
    model: Model,
    spec: &ProgramSpec,
    names: [&'static str; N],
) -> [Site; N] {
    let mut changes = vec![network::model_change(model, 0), network::fleet()];
    changes.push(network::program_change(spec));
    let mut sites = Vec::new();
    for (name, number) in names.into_iter().zip(1..) {
        let (site, change) = Site::new(world, name).await;
        changes.push(change);
        changes.push(Change::Device(network::device(number, name)));
        sites.push(site);
    }
    world.write(&changes).await;
    sites.try_into().unwrap_or_else(|_| panic!("as many sites as names"))
}
