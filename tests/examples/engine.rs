//! `tests/bench engine [--json]`: what the int8 engine costs on the emulated
//! Cortex-M4. An example, so that it shares what the tests have compiled.

use std::process::ExitCode;

use espalier_tests::cost::{Cost, Costs};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = match arguments.as_slice() {
        [] => false,
        [flag] if flag == "--json" => true,
        _ => {
            eprintln!("usage: tests/bench engine [--json]");
            return ExitCode::from(2);
        }
    };
    let costs = Costs::measure();
    if json {
        println!("{:#}", costs.json());
    } else {
        print_table(&costs);
    }
    match costs.mismatched_bytes() {
        0 => ExitCode::SUCCESS,
        count => {
            eprintln!("error: {count} output bytes differ between the chip and this machine");
            ExitCode::FAILURE
        }
    }
}

fn print_table(costs: &Costs) {
    println!("mps2-an386 (Cortex-M4F, emulated): instructions of one inference, not cycles");
    println!(
        "{:<36} {:>10} {:>12} {:>7} {:>11} {:>11}",
        "name", "MACs", "instructions", "per MAC", "arena bytes", "stack bytes"
    );
    for cost in costs.dense() {
        print_row(cost.name, cost);
    }
    for cost in &costs.sparse {
        print_row(&format!("{}, 90 % zero", cost.name), cost);
    }
    for cost in &costs.coded {
        print_row(&format!("{}, coded, 15 values", cost.name), cost);
    }
    for (name, ratio) in costs.sparse_ratios() {
        println!("{name}: 90 % zero takes {ratio:.3} times the instructions of the full layer");
    }
    let flash = costs.firmware_flash_bytes;
    println!("flash of the firmware without a model: {flash} bytes");
    let flash = costs.engine_flash_bytes;
    println!("flash of the engine alone, start-up code and vector table with it: {flash} bytes");
    let count = costs.mismatched_bytes();
    println!("output bytes that differ from this machine: {count}");
}

fn print_row(name: &str, cost: &Cost) {
    println!(
        "{name:<36} {:>10} {:>12} {:>7.2} {:>11} {:>11}",
        cost.macs,
        cost.instructions,
        cost.per_mac(),
        cost.arena_bytes,
        cost.stack_bytes
    );
}
