//! Two hosts in network namespaces of this machine: losses of a training on both compared with
//! one alone, faults between them, and a network that is divided between them.

use std::process::ExitCode;

use espalier_tests::scale::{split, two_hosts};
use serde_json::{Value, json};

fn main() -> ExitCode {
    espalier_tests::bench::run(
        || Ok(json!({ "two_hosts": two_hosts()?, "split": split()? })),
        print,
    )
}

fn print(results: &Value) {
    let hosts = &results["two_hosts"];
    println!(
        "two hosts     {} steps, losses differ by at most {}",
        hosts["steps"], hosts["loss_difference"]
    );
    println!(
        "faults        {} tried, {} survived",
        hosts["faults_tried"], hosts["faults_survived"]
    );
    let split = &results["split"];
    println!(
        "divided       {} steps, losses differ by at most {}",
        split["steps"], split["loss_difference"]
    );
    println!(
        "              {} bytes to and fro in each step",
        split["bytes_per_step"]
    );
}
