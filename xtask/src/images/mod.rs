//! Container images of the product, made without a daemon: the same bytes from the same sources.

mod archive;
mod command;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

pub use self::{
    archive::{Image, Source, Written},
    command::{Options, build, run},
};
use crate::cargo::Cargo;

/// Where the chart looks for images, unless it is told another place.
pub const REGISTRY: &str = "registry.depin.dev";
/// Nobody's account: the programs need no rights.
pub const USER: u32 = 65532;

/// The product's images: name in the registry, program.
pub const PRODUCT: [(&str, &str); 4] =
    [("operator", "depin-operator"), ("gateway", "depin-gateway"), ("agent", "depin-agent"), ("cli", "kubectl-depin")];

/// The product's images from built programs, which must be static.
///
/// # Errors
/// When a program is missing or needs a loader.
pub fn product(cargo: &Cargo, version: &str, sbom: &Path) -> Result<Vec<Image>> {
    PRODUCT
        .iter()
        .map(|(name, program)| {
            let path = cargo.program(program);
            let mut image = single(&format!("{REGISTRY}/{name}:{version}"), &path)?;
            image.sources.push(Source {
                path: "usr/share/doc/sbom.spdx.json".into(),
                from: sbom.to_path_buf(),
                mode: 0o444,
            });
            image.labels.push(("org.opencontainers.image.licenses".into(), "Apache-2.0".into()));
            image.labels.push(("org.opencontainers.image.title".into(), format!("depin-operator {name}")));
            image.labels.push(("org.opencontainers.image.version".into(), version.to_owned()));
            Ok(image)
        })
        .collect()
}

/// An image of one static program, at the root of an otherwise empty file system.
///
/// # Errors
/// When the program is missing or needs a loader, which the image would lack.
pub fn single(reference: &str, program: &Path) -> Result<Image> {
    if !is_static(program)? {
        bail!("{} is not static: nothing could load it in an empty image", program.display());
    }
    let name = program.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
    Ok(Image {
        reference: reference.to_owned(),
        entrypoint: vec![format!("/{name}")],
        sources: vec![Source { path: name.into(), from: program.to_path_buf(), mode: 0o555 }],
        labels: Vec::new(),
    })
}

/// Writes images beside each other, `NAME.tar` each.
///
/// # Errors
/// When one cannot be read or written.
pub fn write(images: &[Image], dir: &Path) -> Result<Vec<(PathBuf, Written)>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    images
        .iter()
        .map(|image| {
            let path = dir.join(format!("{}.tar", image.file_stem()));
            let written = image.write(&path)?;
            Ok((path, written))
        })
        .collect()
}

/// Whether an ELF program names no interpreter.
fn is_static(program: &Path) -> Result<bool> {
    /// Program header: path of the interpreter.
    const PT_INTERP: u32 = 3;
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let word = |at: usize, size: usize| -> Option<u64> {
        let field = bytes.get(at..at + size)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("{} is no 64-bit little-endian ELF program", program.display());
    }
    let headers = || {
        let (start, size, count) = (word(0x20, 8)?, word(0x36, 2)?, word(0x38, 2)?);
        (0..count).map(|number| word(usize::try_from(start + number * size).ok()?, 4)).collect::<Option<Vec<u64>>>()
    };
    let headers = headers().with_context(|| format!("{} is cut short", program.display()))?;
    Ok(!headers.contains(&u64::from(PT_INTERP)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    /// No container engine runs where this is tested: what its instructions say is compared, not what an engine makes of them.
    #[test]
    fn the_dockerfile_makes_the_same_images() {
        let text = fs::read_to_string(workspace().join("Dockerfile")).unwrap();
        let manifest = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
        let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
        let stages: Vec<&str> = text.split("\nFROM ").collect();
        assert!(stages[1].starts_with(&format!("--platform=$BUILDPLATFORM rust:{version}-slim")), "{}", stages[1]);
        let made: Vec<String> = stages[2..].iter().map(|stage| stage.trim().to_owned()).collect();
        let wanted = PRODUCT.map(|(name, program)| {
            format!(
                "scratch AS {name}\nCOPY --from=build /programs/{program} /{program}\nUSER {USER}:{USER}\nENTRYPOINT [\"/{program}\"]"
            )
        });
        assert_eq!(made, wanted);
        for (_, program) in PRODUCT {
            assert!(stages[1].contains(&format!("--bin {program}")), "{program} is not built");
        }
    }
}
