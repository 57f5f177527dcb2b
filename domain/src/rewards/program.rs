//! A program that has been checked and compiled: the only form in which epochs use one.

use super::{
    expression::Expression,
    spec::{Limit, ProgramSpec},
    validate::{self, SpecError},
};

/// A checked program: names are resolved, the weight is compiled.
#[derive(Clone, Debug)]
pub struct Program {
    spec: ProgramSpec,
    weight: Expression,
    /// Index of the feature of each gate.
    gates: Vec<usize>,
    /// Index of the ranking feature of each limit.
    ranks: Vec<Option<usize>>,
}

impl Program {
    /// Checks and compiles; all faults at once.
    pub fn compile(spec: &ProgramSpec) -> Result<Self, Vec<SpecError>> {
        let faults = validate::faults(spec);
        if !faults.is_empty() {
            return Err(faults);
        }
        let names: Vec<_> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
        let weight = Expression::compile(&spec.weight, &names).map_err(|error| {
            vec![SpecError {
                field: "weight".into(),
                reason: error.to_string(),
                remedy: "correct the expression".into(),
            }]
        })?;
        let index = |name: &str| names.iter().position(|known| *known == name);
        // Validation has found every name; one that were missing would shut its gate for all (an absent feature).
        let gates = spec.gates.iter().map(|gate| index(&gate.feature).unwrap_or(usize::MAX)).collect();
        let ranks = spec.limits.iter().map(|limit| by(limit).and_then(index)).collect();
        Ok(Self { spec: spec.clone(), weight, gates, ranks })
    }

    /// The program as it was written.
    #[must_use]
    pub fn spec(&self) -> &ProgramSpec {
        &self.spec
    }

    /// The compiled weight.
    #[must_use]
    pub fn weight(&self) -> &Expression {
        &self.weight
    }

    /// Indexes of the gates' features.
    pub(crate) fn gates(&self) -> &[usize] {
        &self.gates
    }

    /// Indexes of the limits' ranking features.
    pub(crate) fn ranks(&self) -> &[Option<usize>] {
        &self.ranks
    }

    /// H3 resolution of the hex limit, if there is one.
    #[must_use]
    pub fn resolution(&self) -> Option<u8> {
        self.spec.limits.iter().find_map(|limit| match limit {
            Limit::HexCapacity { resolution, .. } => Some(*resolution),
            Limit::MinimumDistance { .. } => None,
        })
    }
}

fn by(limit: &Limit) -> Option<&str> {
    match limit {
        Limit::HexCapacity { by, .. } | Limit::MinimumDistance { by, .. } => by.as_deref(),
    }
}
