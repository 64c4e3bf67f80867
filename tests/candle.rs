//! Candle beside Flex: the same checkpoints, the same answers. Needs the feature `candle`.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::fs;
use std::path::Path;

use espalier::augment::Augmentation;
use espalier::candle::Unsupported;
use espalier::checkpoint::Checkpoint;
use espalier::data::{self, Dataset, Options, Part, Resize, Source};
use espalier::network::NetworkSpec;
use espalier::train::{Backend, Hooks, Teacher, TrainError, TrainOptions, evaluate, start, train};
use espalier_tests::command::{call, json, workspace};
use shared::layer::Shape;

fn pictures(part: Part, count: usize) -> Dataset {
    let source = Source::parse("fashion-mnist", Path::new("")).unwrap();
    let mut data = data::load(&source, part, &Options::default()).unwrap();
    data.pictures.truncate(count);
    data
}

fn article() -> Checkpoint {
    let file = "examples/fashion-mnist/article/float.safetensors";
    Checkpoint::load(&workspace().join(file)).unwrap()
}

/// Untrained.
fn network(text: &str, data: &Dataset, options: &TrainOptions) -> Checkpoint {
    let spec: NetworkSpec = toml::from_str(text).unwrap();
    let network = spec.build(Shape::new(28, 28, 1).unwrap(), 10).unwrap();
    start(network, data, Resize::default(), options).unwrap()
}

fn on(backend: Backend) -> Hooks<'static> {
    Hooks {
        backend,
        ..Hooks::default()
    }
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let (a, b) = (a.concat(), b.concat());
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

fn mean_entropy(logits: &[Vec<f32>], data: &Dataset) -> f64 {
    let entropy = |(row, label): (&Vec<f32>, usize)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        sum.ln() - f64::from(row[label])
    };
    let rows = logits
        .iter()
        .zip(data.pictures.iter().map(|picture| picture.label));
    rows.map(entropy).sum::<f64>() / logits.len() as f64
}

#[test]
fn logits_are_those_of_flex() {
    let (checkpoint, data) = (article(), pictures(Part::Test, 64));
    let flex = Backend::Flex.evaluate(&checkpoint, &data).unwrap();
    let candle = Backend::Candle.evaluate(&checkpoint, &data).unwrap();
    assert_eq!((candle.len(), candle[0].len()), (64, 10));
    let largest = largest_difference(&flex, &candle);
    println!("the largest difference of a logit is {largest:e}");
    assert!(largest < 1e-4, "{largest}");
}

#[test]
fn a_short_training_goes_as_on_flex() {
    let (data, test) = (pictures(Part::Train, 512), pictures(Part::Test, 200));
    let options = TrainOptions {
        steps: Some(16),
        batch: 64,
        dropout: 0.2,
        clip_norm: Some(2.0),
        seed: 3,
        ..TrainOptions::default()
    };
    let augmentation: Augmentation = toml::from_str("shift = 0.08\nrotate = 5").unwrap();
    let untrained = network("preset = 'article'", &data, &options);
    let trained = |backend| {
        let hooks = on(backend);
        let from = untrained.clone();
        let outcome = train(from, None, &data, None, &options, &augmentation, &hooks);
        outcome.unwrap().checkpoint
    };
    let (flex, candle) = (trained(Backend::Flex), trained(Backend::Candle));

    let loss = |checkpoint| mean_entropy(&evaluate(checkpoint, &test).unwrap(), &test);
    let (before, after) = (loss(&untrained), loss(&candle));
    println!("loss {before:.3} before, {after:.3} after");
    assert!(after < 0.8 * before, "{before} {after}");

    // Another order of additions, some steps on.
    let answers = |checkpoint| evaluate(checkpoint, &test).unwrap();
    let apart = largest_difference(&answers(&flex), &answers(&candle));
    let moved = largest_difference(&answers(&untrained), &answers(&candle));
    println!("logits moved by up to {moved}, and are up to {apart} from those of Flex");
    assert!(apart < 0.02 * moved, "{apart} {moved}");

    // What was trained on Candle is a checkpoint like any other.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("candle.safetensors");
    candle.save(&file).unwrap();
    let loaded = Checkpoint::load(&file).unwrap();
    let (here, there) = (Backend::Candle, Backend::Flex);
    assert_eq!(
        here.answers(&candle, &test).unwrap(),
        there.answers(&loaded, &test).unwrap()
    );
}

#[test]
fn options_of_the_training_do_what_they_do_on_flex() {
    let data = pictures(Part::Train, 96);
    let teacher = Teacher::new(&article(), &data).unwrap();
    let untrained = |options: &TrainOptions, batch_norm: bool| {
        let text = format!(
            "layers = [{{ conv2d = {{ filters = 4, kernel = 5, stride = 2, activation = 'relu' }}, batch_norm = {batch_norm} }},
                       {{ max_pool2d = {{ kernel = 2 }} }}, {{ dense = {{}} }}]"
        );
        network(&text, &data, options)
    };
    let common = "epochs = 3\nbatch = 48\nrate = 0.003\n";
    let cases = [
        "loss = 'focal'\nlogit_adjustment = 1.0\nclass_weights = 'inverse'\nsampling = 'balanced'",
        "optimizer = 'nesterov'\naverage = 'ema'\npatience = 5\nfreeze = ['conv2d_1']",
        "optimizer = 'rmsprop'\nsmoothing = 0.3\nbody_rate = 0.5",
    ];
    for (text, batch_norm) in cases.into_iter().zip([false, true, true]) {
        let options: TrainOptions = toml::from_str(&format!("{common}{text}")).unwrap();
        let trained = |backend| {
            let (from, hooks) = (untrained(&options, batch_norm), on(backend));
            let augmentation = Augmentation::default();
            let (teacher, validation) = (Some(&teacher), Some(&data));
            let outcome = train(
                from,
                teacher,
                &data,
                validation,
                &options,
                &augmentation,
                &hooks,
            );
            outcome.unwrap()
        };
        let (flex, candle) = (trained(Backend::Flex), trained(Backend::Candle));
        assert_eq!(flex.best_epoch, candle.best_epoch, "{text}");
        let answers = |checkpoint| evaluate(checkpoint, &data).unwrap();
        let [start, flex, candle] = [
            &untrained(&options, batch_norm),
            &flex.checkpoint,
            &candle.checkpoint,
        ]
        .map(answers);
        let (apart, moved) = (
            largest_difference(&flex, &candle),
            largest_difference(&start, &candle),
        );
        assert!(apart < 0.02 * moved, "{text}: {apart} {moved}");
    }
}

#[test]
fn what_candle_does_not_compute_is_refused_before_training() {
    let data = pictures(Part::Train, 20);
    let options = TrainOptions::default();
    let refused = |layer: &str| {
        let text = format!("layers = [{{ name = 'x', {layer} }}, {{ dense = {{}} }}]");
        let checkpoint = network(&text, &data, &options);
        let (augmentation, hooks) = (Augmentation::default(), on(Backend::Candle));
        let training = train(
            checkpoint.clone(),
            None,
            &data,
            None,
            &options,
            &augmentation,
            &hooks,
        );
        let of_training = match training.unwrap_err() {
            TrainError::Candle(reason) => reason,
            error => panic!("{error}"),
        };
        match Backend::Candle.evaluate(&checkpoint, &data).unwrap_err() {
            TrainError::Candle(reason) => assert_eq!(reason, of_training),
            error => panic!("{error}"),
        }
        of_training
    };
    let x = || "x".to_owned();
    let depthwise = refused("depthwise_conv2d = { kernel = 3 }");
    assert_eq!(depthwise, Unsupported::Depthwise { layer: x() });
    for pool in [
        "max_pool2d = { kernel = 3, stride = 2 }",
        "max_pool2d = { kernel = 3, padding = 'same' }",
        "avg_pool2d = { kernel = 3, stride = 2 }",
    ] {
        assert_eq!(refused(pool), Unsupported::Windows { layer: x() });
    }
    let stride = refused("conv2d = { filters = 2, kernel = 3, stride = [2, 1] }");
    assert!(matches!(stride, Unsupported::Stride { .. }));
}

#[test]
fn the_command_line_trains_tunes_and_evaluates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let project = |network: &str| {
        let source = workspace().canonicalize().unwrap().join("examples/fashion");
        let text = format!(
            "[data]\nsource = '{}'\n[network]\n{network}\n[train]\nepochs = 2\n",
            source.display()
        );
        fs::write(path.join("espalier.toml"), text).unwrap();
        source
    };
    let source = project("preset = 'article'");
    let backend = ["--backend", "candle"];
    let trained = json(path, ["train"].into_iter().chain(backend));
    let checkpoint = path.join("out/float.safetensors");
    let source = source.to_str().unwrap();
    let evaluate = ["evaluate", "out/float.safetensors", source];
    let candle = json(path, evaluate.into_iter().chain(backend));
    let flex = json(path, evaluate);
    assert_eq!(candle["accuracy"], trained["float_accuracy"]);
    assert_eq!(candle["confusion"], flex["confusion"]);

    let base = path.join("base.safetensors");
    fs::copy(&checkpoint, &base).unwrap();
    let tuning = ["finetune", "--base", "base.safetensors"];
    let tuned = json(path, tuning.into_iter().chain(backend));
    assert!(tuned["float_accuracy"].as_f64() > trained["float_accuracy"].as_f64());

    project("preset = 'dscnn'");
    fs::remove_dir_all(path.join("out")).unwrap();
    let refused = call(path, ["train"].into_iter().chain(backend));
    assert!(!refused.success);
    let said = &refused.stderr;
    assert!(
        said.contains("Candle") && said.contains("--backend flex"),
        "{said}"
    );
    assert!(!checkpoint.exists());
}
