//! Trainings on several devices, as a user starts them.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::path::Path;
use std::sync::OnceLock;

use espalier::checkpoint::Checkpoint;
use espalier::distributed::{Server, Token, VERSION};
use espalier_tests::command::{Called, call, json, skip};
use espalier_tests::hosts::Hosts;
use espalier_tests::scale::{CABLE_FAULTS, FAULTS, Fault, Ground, ROUNDING};
use espalier_tests::worker::{PROJECT, TOKEN, Worker, largest_difference, losses, project};
use tempfile::TempDir;

/// A project, and the losses of its steps on this machine's cores.
fn alone(toml: &str) -> (TempDir, Vec<f64>) {
    let folder = project(toml).unwrap();
    json(folder.path(), ["train"]);
    let losses = losses(folder.path());
    assert!(
        losses.len() > 1 && losses.last() < losses.first(),
        "{losses:?}"
    );
    (folder, losses)
}

fn workers<const N: usize>(folder: &Path) -> [Worker; N] {
    std::array::from_fn(|_| Worker::start(folder, "127.0.0.1:0", None).unwrap())
}

/// `train` with more arguments on these devices.
fn train(folder: &Path, devices: &[&str], more: &[&str]) -> Called {
    let named = devices.iter().flat_map(|device| ["--device", device]);
    let arguments = ["train", "--json", "--token-file", "token"].into_iter();
    call(folder, arguments.chain(named).chain(more.iter().copied()))
}

/// The same, which has to give these losses.
fn trains_alike(
    folder: &Path,
    devices: &[&str],
    more: &[&str],
    alone: &[f64],
) -> serde_json::Value {
    let called = train(folder, devices, more);
    assert!(called.success, "{devices:?}: {}", called.stderr);
    let difference = largest_difference(&losses(folder), alone);
    assert!(difference <= ROUNDING, "{devices:?} {more:?}: {difference}");
    serde_json::from_str(&called.stdout).unwrap()
}

fn refused(folder: &Path, devices: &[&str], more: &[&str], words: &[&str]) {
    let Called {
        success, stderr, ..
    } = train(folder, devices, more);
    assert!(!success, "{devices:?} {more:?}");
    for word in words {
        assert!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
}

#[test]
fn any_number_of_devices_learns_alike() {
    let (folder, alone) = alone(PROJECT);
    let path = folder.path();
    let workers: [Worker; 3] = workers(path);
    let addresses = workers.each_ref().map(|worker| worker.address.to_string());
    let [a, b, c] = addresses.each_ref().map(String::as_str);
    for devices in [
        &["flex"][..],
        &[a],
        &[a, b],
        &[a, b, c],
        &["flex", a],
        &[b, "flex", a],
        &[a, b, c, "flex"],
    ] {
        let report = trains_alike(path, devices, &[], &alone);
        assert_eq!(
            report["devices"].as_array().map(Vec::len),
            Some(devices.len())
        );
        assert_eq!(report["lost_devices"].as_array().map(Vec::len), Some(0));
        assert!(report["split"].is_null());
    }
}

#[test]
fn an_ensemble_teaches_on_other_devices_as_here() {
    let toml = PROJECT.replace("epochs = 20", "epochs = 6\nensemble = 2\ndistill = 0.7");
    let (folder, alone) = alone(&toml);
    let [worker] = workers(folder.path());
    trains_alike(
        folder.path(),
        &["flex", &worker.address.to_string()],
        &[],
        &alone,
    );
}

#[test]
fn a_divided_network_learns_as_a_whole_one() {
    let (folder, alone) = alone(PROJECT);
    let path = folder.path();
    let [first, second] = workers(path);
    let (first, second) = (first.address.to_string(), second.address.to_string());
    for layer in ["pool", "hidden", "head"] {
        trains_alike(path, &["flex", &first], &["--split", layer], &alone);
    }
    let there = trains_alike(path, &[&first, &second], &["--split", "hidden"], &alone);
    // 4 channels of 6x6 for each of 60 pictures; 4 * 9 + 4 parameters before, and behind
    // (144 + 1) * 8 + (8 + 1) * 3.
    let split = &there["split"];
    let (activations, before, behind) = (60 * 144 * 4, (36 + 4) * 4, (145 * 8 + 27) * 4);
    assert_eq!(split["activation_bytes"], activations);
    assert_eq!(split["gradient_bytes"], activations);
    assert_eq!(split["parameter_bytes"], before + behind);
    assert_eq!(split["bytes_per_step"], 2 * (activations + before + behind));
    let back = trains_alike(path, &[&second, "flex"], &["--split", "hidden"], &alone);
    assert_eq!(back["split"]["parameter_bytes"], before);

    for unknown in ["first", "hiden"] {
        let words = [
            &format!("`--split {unknown}`"),
            "there are pool, hidden, head",
        ];
        refused(path, &["flex", &first], &["--split", unknown], &words);
    }
    refused(
        path,
        &["flex"],
        &["--split", "head"],
        &["two devices", "there are 1"],
    );
}

#[test]
fn batch_normalisation_stays_whole() {
    let toml = PROJECT.replace(
        "activation = 'relu' } },\n    { name = 'pool'",
        "activation = 'relu' }, batch_norm = true },\n    { name = 'pool'",
    );
    assert_ne!(toml, PROJECT);
    let (folder, alone) = alone(&toml);
    let path = folder.path();
    let float = || {
        Checkpoint::load(&path.join("out/float.safetensors"))
            .unwrap()
            .tensors
    };
    let here = float();
    let [worker] = workers(path);
    let worker = worker.address.to_string();
    for (devices, more) in [
        (&[worker.as_str()][..], &[][..]),
        (&["flex", &worker], &["--split", "hidden"]),
        (&[&worker, "flex"], &["--split", "pool"]),
    ] {
        trains_alike(path, devices, more, &alone);
        // Running means and variances come back as well.
        for (name, tensor) in float() {
            let pairs = tensor.data.iter().zip(&here[&name].data);
            assert!(
                pairs.clone().all(|(a, b)| (a - b).abs() < 1e-3),
                "{name} {devices:?}"
            );
        }
    }
    refused(
        path,
        &["flex", &worker],
        &[],
        &["batch normalisation", "2 devices", "--split"],
    );
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = project(PROJECT).unwrap();
    let path = folder.path();
    refused(
        path,
        &["gpu"],
        &[],
        &["`gpu` is no device", "espalier worker", "cuda"],
    );
    refused(
        path,
        &["flex", "flex"],
        &[],
        &["`--device flex` is given twice"],
    );
    for name in ["cuda:0", "wgpu:3"] {
        // Without the feature, or without the card.
        refused(path, &[name], &[], &[name]);
    }
    refused(
        path,
        &["host.invalid:7411"],
        &[],
        &["host.invalid:7411", "address of the host"],
    );
    std::fs::write(path.join("token"), "short").unwrap();
    refused(path, &["flex"], &[], &["token holds no token", "32"]);
    let without = ["train", "--device", "127.0.0.1:7411"];
    let Called {
        success, stderr, ..
    } = call(path, without);
    assert!(!success && stderr.contains("--token-file"), "{stderr}");
}

#[test]
fn another_version_is_refused_with_both_names() {
    let folder = project(PROJECT).unwrap();
    let token = Token::parse(TOKEN, "it").unwrap();
    let server = Server::start("127.0.0.1:0".parse().unwrap(), &token, "9.9.9").unwrap();
    let address = server.address().to_string();
    refused(
        folder.path(),
        &[&address],
        &[],
        &[&address, "espalier 9.9.9", &format!("espalier {VERSION}")],
    );
    assert_eq!(server.sessions(), (0, 0));
}

/// The ground of faults on this machine, which takes a training to lay.
fn ground() -> &'static Ground<'static> {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| Ground::new(None).unwrap())
}

fn survive(ground: &Ground, faults: &[Fault]) {
    for (name, fault) in faults {
        assert_eq!(fault(ground), Ok(()), "{name}");
    }
}

#[test]
fn faults_cost_no_training() {
    survive(ground(), FAULTS);
}

#[test]
fn faults_between_two_hosts_cost_no_training() {
    match Hosts::new() {
        Ok(hosts) => {
            let ground = Ground::new(Some(&hosts)).unwrap();
            survive(&ground, FAULTS);
            survive(&ground, CABLE_FAULTS);
        }
        Err(why) => skip("faults_between_two_hosts_cost_no_training", &why),
    }
}
