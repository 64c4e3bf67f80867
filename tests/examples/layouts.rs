//! `tests/bench layouts`: what layers cost dense, sparse and coded on the
//! emulated Cortex-M4, beside what export thinks that they cost.

use espalier_tests::cost::layouts;

fn main() {
    println!("mps2-an386 (Cortex-M4F, emulated): instructions of one inference, not cycles");
    println!(
        "{:<52} {:>10} {:>10} {:>6}",
        "layer", "measured", "estimated", "ratio"
    );
    for (name, cost) in layouts() {
        let estimate = cost.estimate.unwrap_or_default();
        let ratio = estimate as f64 / cost.instructions as f64;
        println!(
            "{name:<52} {:>10} {estimate:>10} {ratio:>6.3}",
            cost.instructions
        );
    }
}
