//! Draws the sample of Fashion-MNIST in `examples/fashion`:
//!
//! ```text
//! cargo run --release -p espalier --example sample_fashion [FOLDER]
//! ```
//!
//! A picture's file name is its position in the original file, from 0. The same seed gives the same files.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use espalier::data::{self, Options, Part, Source, save_png};

const SEED: u64 = 2026;
const PARTS: [(Part, usize); 2] = [(Part::Train, 20), (Part::Test, 100)];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("examples/fashion"), PathBuf::from);
    for (part, per_class) in PARTS {
        let count = draw(&folder, part, per_class)?;
        eprintln!("{}: {count} {part} pictures", folder.display());
    }
    Ok(())
}

fn draw(folder: &Path, part: Part, per_class: usize) -> Result<usize, Box<dyn Error>> {
    let all = data::load(&Source::FashionMnist, part, &Options::default())?;
    // Pictures of another draw must not stay among the new ones.
    let part_folder = folder.join(part.to_string());
    if part_folder.exists() {
        return Err(format!(
            "{} is there already; remove it first",
            part_folder.display()
        )
        .into());
    }
    let picked = all.pick_per_class(per_class, SEED)?;
    for &at in &picked {
        let picture = all.pictures.get(at).ok_or("no such picture")?;
        let class = all.classes.get(picture.label).ok_or("no such class")?;
        let class_folder = part_folder.join(class);
        fs::create_dir_all(&class_folder)?;
        save_png(
            &class_folder.join(format!("{at:05}.png")),
            &picture.pixels,
            all.shape,
        )?;
    }
    Ok(picked.len())
}
