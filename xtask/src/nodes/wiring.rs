//! The cluster's network: a bridge on the hub, a line to each edge, and routes between the nodes' Pods.

use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::machine::Machine;

/// The bridge on the hub.
const BRIDGE: &str = "lan";
/// An edge's end of its line.
const UPLINK: &str = "uplink";

/// A machine's address; it exists only inside the cluster's namespaces.
pub(super) fn address(index: usize) -> String {
    format!("10.111.0.{}", index + 1)
}

/// The range of a machine's Pods.
pub(super) fn pod_range(index: usize) -> String {
    format!("10.244.{index}.0/24")
}

/// Connects all machines; the first is the hub.
pub(super) fn connect(machines: &[Machine]) -> Result<()> {
    let (hub, edges) = machines.split_first().context("no machines")?;
    for machine in machines {
        machine.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
    }
    ip(hub, &["link", "add", BRIDGE, "type", "bridge"])?;
    ip(hub, &["addr", "add", &format!("{}/24", hub.address()), "dev", BRIDGE])?;
    ip(hub, &["link", "set", BRIDGE, "up"])?;
    // Whoever asks for the way out is answered by the hub itself: there is none. Daemons insist on a default route.
    ip(hub, &["route", "add", "default", "dev", BRIDGE])?;
    for edge in edges {
        let namespace = edge.init().to_string();
        ip(hub, &["link", "add", edge.name(), "type", "veth", "peer", "name", UPLINK, "netns", &namespace])?;
        ip(hub, &["link", "set", edge.name(), "master", BRIDGE, "up"])?;
        ip(edge, &["addr", "add", &format!("{}/24", edge.address()), "dev", UPLINK])?;
        ip(edge, &["link", "set", UPLINK, "up"])?;
        ip(edge, &["route", "add", "default", "via", &hub.address()])?;
    }
    for machine in machines {
        for other in machines.iter().filter(|other| other.index() != machine.index()) {
            route(machine, other)?;
        }
    }
    Ok(())
}

/// Takes an edge's line down.
pub(super) fn cut(hub: &Machine, edge: &Machine) -> Result<()> {
    ip(hub, &["link", "set", edge.name(), "down"])
}

/// Puts it up again. Only the hub's end was down, and the routes hang on the bridge and on the edge's end: they stayed.
pub(super) fn mend(hub: &Machine, edge: &Machine) -> Result<()> {
    ip(hub, &["link", "set", edge.name(), "up"])
}

fn route(machine: &Machine, to: &Machine) -> Result<()> {
    ip(machine, &["route", "replace", &pod_range(to.index()), "via", &to.address()])
}

/// `ip` in a machine's network, with the host's process ids (for `netns`).
fn ip(machine: &Machine, arguments: &[&str]) -> Result<()> {
    let shown = format!("ip {} on {}", arguments.join(" "), machine.name());
    super::output(machine.in_network("ip").args(arguments).stdin(Stdio::null()), &shown).map(drop)
}
