//! A whole proof: header and sections that belong together. The signature is for `identity` to verify.

use depin_domain::{
    ids::Digest,
    proofs::{Header, Reason, Section},
};

use super::{
    body::body_root,
    error::{EnvelopeError, Problem},
    header::decode_header,
    section::decode_section,
};

/// A proof whose bytes follow the format and whose sections are those that the header names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedProof {
    /// The signed part.
    pub header: Header,
    /// SHA-256 of the header's bytes: the proof's identity.
    pub digest: Digest,
    /// What the devices measured.
    pub sections: Vec<Section>,
}

impl OpenedProof {
    /// How many readings it holds.
    #[must_use]
    pub fn readings(&self) -> u64 {
        let series = self.sections.iter().flat_map(|section| &section.series);
        series.map(|series| series.readings.len() as u64).sum()
    }
}

/// The bytes are no proof.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A field is not as the format says.
    #[error(transparent)]
    Malformed(#[from] EnvelopeError),
    /// The sections are not those that the header was signed for.
    #[error("header.body: the sections hash to {found}, the header names {signed}")]
    BodyMismatch {
        /// What the sections hash to.
        found: Digest,
        /// What the header names.
        signed: Digest,
    },
}

impl OpenError {
    /// The reason with which a gateway refuses the proof.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::Malformed,
            Self::BodyMismatch { .. } => Reason::BodyMismatch,
        }
    }
}

/// Reads header and sections and checks that they belong together: count, root, window, one section a device.
///
/// # Errors
/// Naming the first field that is not as the format says, or the two roots that differ.
pub fn open_proof<S: AsRef<[u8]>>(header: &[u8], sections: &[S]) -> Result<OpenedProof, OpenError> {
    let digest = Digest::of(header);
    let header = decode_header(header)?;
    if sections.len() != header.sections as usize {
        return Err(Problem::Contradiction("is not the number of sections that came along")
            .at("header.sections")
            .into());
    }
    let found = body_root(sections);
    if found != header.body {
        return Err(OpenError::BodyMismatch { found, signed: header.body });
    }
    let sections =
        sections.iter().map(|section| decode_section(section.as_ref())).collect::<Result<Vec<_>, EnvelopeError>>()?;
    check_window(&header, &sections)?;
    check_devices(&sections)?;
    Ok(OpenedProof { header, digest, sections })
}

fn check_window(header: &Header, sections: &[Section]) -> Result<(), EnvelopeError> {
    for series in sections.iter().flat_map(|section| &section.series) {
        // Ascending, so the ends speak for all.
        let ends = series.readings.first().into_iter().chain(series.readings.last());
        if ends.into_iter().any(|reading| !header.window.contains(reading.at)) {
            return Err(Problem::Contradiction("does not hold every reading").at("header.window"));
        }
    }
    Ok(())
}

/// One section a device and model: a model may change within a proof's window, so the same device may come twice,
/// but never twice with one model.
fn check_devices(sections: &[Section]) -> Result<(), EnvelopeError> {
    let mut seen: Vec<_> = sections.iter().map(|section| (section.device, section.model)).collect();
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Problem::Contradiction("comes twice with the same model").at("section.device"));
    }
    Ok(())
}
