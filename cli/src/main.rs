//! `kubectl depin`: looks into a network, lets devices in, explains and verifies payouts.

use std::process::ExitCode;

fn main() -> ExitCode {
    kubectl_depin::run()
}
