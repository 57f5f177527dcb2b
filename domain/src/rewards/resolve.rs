//! The first half of a close: from readings and places to features and limit factors. What comes out is everything that
//! the second half, [`super::close`], needs, and nothing that tells where a device stands: it is what the public
//! export publishes, so that anybody can repeat the second half.

use std::collections::BTreeMap;

use super::{
    amount::Amount,
    error::EpochError,
    features,
    input::{DeviceInput, EpochInput, MaturedInput, Share},
    limits::{self, Candidate},
    program::Program,
    result::{Line, ProgramState, ZeroReason},
    spec::ProgramSpec,
    weigh::weigh,
};
use crate::ids::DeviceId;

/// An epoch whose features and limits are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEpoch {
    /// `namespace/name` of the program.
    pub program: String,
    /// Which epoch.
    pub number: u64,
    /// The program in force.
    pub spec: ProgramSpec,
    /// Its devices, ascending by id.
    pub devices: Vec<ResolvedDevice>,
    /// Epochs that mature, ascending by number.
    pub matured: Vec<ResolvedMatured>,
    /// What the epoch before left.
    pub state: ProgramState,
}

/// A device in an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedDevice {
    /// Which; in a public export its pseudonym.
    pub id: DeviceId,
    /// Suspended as of the epoch's start.
    pub suspended: bool,
    /// Anything was accepted that the program looks at.
    pub has_data: bool,
    /// In the program's order.
    pub features: Vec<Option<i64>>,
    /// Why a limit excludes it.
    pub refused: Option<ZeroReason>,
    /// Who is paid.
    pub shares: Vec<Share>,
}

/// An earlier epoch that matures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedMatured {
    /// Which epoch.
    pub number: u64,
    /// The program that was in force in it.
    pub spec: ProgramSpec,
    /// Its devices, ascending by id.
    pub devices: Vec<ResolvedLate>,
}

/// A device in an epoch that matures, beside what was frozen at its close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedLate {
    /// The device with what came late; `refused` is about its claim to room that was left. It has one only if its weight
    /// rose since the close: a refusal stands however much room there is.
    pub device: ResolvedDevice,
    /// It counted at the close.
    pub admitted: bool,
    /// With this weight.
    pub weight: u64,
    /// And got this share.
    pub share: Amount,
    /// Its part of the room that was left: numerator.
    pub room: u64,
    /// Denominator.
    pub claims: u64,
}

/// Resolves an epoch's devices and those of the epochs that mature with it.
pub fn resolve(input: &EpochInput) -> Result<ResolvedEpoch, EpochError> {
    let mut matured = input.matured.iter().map(resolve_matured).collect::<Result<Vec<_>, _>>()?;
    matured.sort_unstable_by_key(|matured| matured.number);
    Ok(ResolvedEpoch {
        program: input.program.clone(),
        number: input.number,
        spec: input.spec.clone(),
        devices: resolve_devices(input)?,
        matured,
        state: input.state.clone(),
    })
}

fn compile(number: u64, spec: &ProgramSpec) -> Result<Program, EpochError> {
    Program::compile(spec).map_err(|errors| EpochError::Program { number, errors })
}

fn resolve_devices(input: &EpochInput) -> Result<Vec<ResolvedDevice>, EpochError> {
    let program = compile(input.number, &input.spec)?;
    let sorted = by_id(input.number, &input.devices)?;
    let mut devices: Vec<_> = sorted.iter().map(|device| resolved(&program, device)).collect();
    // A suspended program shares nothing out, so no place is scarce.
    if input.spec.limits.is_empty() || input.spec.suspend {
        return Ok(devices);
    }
    let wanting: Vec<usize> = (0..devices.len()).filter(|at| weigh(&program, &devices[*at]).0 > 0).collect();
    let refused = {
        let candidate = |at: &usize| Candidate { device: sorted[*at], features: &devices[*at].features };
        limits::admit(&program, &wanting.iter().map(candidate).collect::<Vec<_>>())
    };
    for (at, refused) in wanting.into_iter().zip(refused) {
        devices[at].refused = refused;
    }
    Ok(devices)
}

fn resolve_matured(matured: &MaturedInput) -> Result<ResolvedMatured, EpochError> {
    let program = compile(matured.number, &matured.spec)?;
    let lines: BTreeMap<DeviceId, &Line> = matured.lines.iter().map(|line| (line.device, line)).collect();
    let sorted = by_id(matured.number, &matured.devices)?;
    let mut devices: Vec<_> = sorted
        .iter()
        .map(|device| {
            let line = lines.get(&device.id);
            ResolvedLate {
                device: resolved(&program, device),
                admitted: line.is_some_and(|line| line.admitted),
                weight: line.map_or(0, |line| line.weight),
                share: line.map_or(Amount::ZERO, |line| line.share),
                // What the close refused stays refused, unless something came late that makes it a claim.
                room: u64::from(line.is_some_and(|line| line.admitted)),
                claims: 1,
            }
        })
        .collect();
    // Who has no line had no weight.
    let frozen = |device: &DeviceId| lines.get(device).map_or(0, |line| line.raw_weight);
    let claiming = |late: &ResolvedLate| !late.admitted && weigh(&program, &late.device).0 > frozen(&late.device.id);
    let claimants: Vec<usize> = (0..devices.len()).filter(|at| claiming(&devices[*at])).collect();
    let claims = {
        let candidate = |at: usize| Candidate { device: sorted[at], features: &devices[at].device.features };
        let standing: Vec<_> = (0..devices.len()).filter(|at| devices[*at].admitted).map(candidate).collect();
        let late: Vec<_> = claimants.iter().map(|at| candidate(*at)).collect();
        limits::claims(&program, &standing, &late)
    };
    for (at, claim) in claimants.into_iter().zip(claims) {
        match claim {
            Ok((room, claims)) => (devices[at].room, devices[at].claims) = (room, claims),
            Err(reason) => (devices[at].room, devices[at].device.refused) = (0, Some(reason)),
        }
    }
    Ok(ResolvedMatured { number: matured.number, spec: matured.spec.clone(), devices })
}

fn resolved(program: &Program, device: &DeviceInput) -> ResolvedDevice {
    ResolvedDevice {
        id: device.id,
        suspended: device.suspended,
        has_data: features::has_data(program, device),
        features: features::features(program, device),
        refused: None,
        shares: device.shares.clone(),
    }
}

fn by_id(number: u64, devices: &[DeviceInput]) -> Result<Vec<&DeviceInput>, EpochError> {
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_unstable_by_key(|device| device.id);
    match devices.windows(2).find(|pair| pair[0].id == pair[1].id) {
        Some(pair) => Err(EpochError::DuplicateDevice { number, device: pair[0].id }),
        None => Ok(devices),
    }
}
