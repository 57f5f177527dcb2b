//! Writes `crds/yaml/`: what `cargo xtask generate` does for the definitions alone.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    fs::create_dir_all(&folder)?;
    for (name, text) in depin_crds::yaml::all()? {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}
