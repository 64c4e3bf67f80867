//! espalier
fn main() {}
