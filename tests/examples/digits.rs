//! `cargo run --release -p espalier-tests --example digits`: writes the handwritten digits
//! into `examples/digits/pictures`, as folders of PNG files.

use espalier_tests::command::workspace;
use espalier_tests::digits;

fn main() -> std::io::Result<()> {
    digits::write(&workspace().join("examples/digits/pictures"))
}
