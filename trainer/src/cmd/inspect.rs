//! `espalier inspect`: the layer table.

use std::fmt;

use clap::Args;
use serde::Serialize;
use shared::Model;
use shared::kernels::Storage;
use shared::model::{Step, block_bytes};

use super::Error;
use super::model::{ModelPath, layer_parameters, parse};
use crate::output::{Report, table, thousands};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    #[command(flatten)]
    path: ModelPath,
}

/// What a model file holds.
#[derive(Serialize)]
pub struct Inspection {
    model_bytes: usize,
    arena_bytes: usize,
    input: String,
    classes: Vec<String>,
    golden: usize,
    layers: Vec<LayerRow>,
}

#[derive(Serialize)]
struct LayerRow {
    layer: usize,
    kind: &'static str,
    detail: String,
    inputs: Vec<u8>,
    output: String,
    scale: f32,
    zero_point: i8,
    arena_offset: u32,
    params: usize,
    nonzeros: usize,
    /// How its weights are stored.
    storage: Storage,
    bytes: usize,
    macs: u64,
}

impl Cmd {
    /// Reads the model and lists its layers.
    pub fn run(self) -> Result<Inspection, Error> {
        let bytes = self.path.read()?;
        let model = parse(&bytes, &self.path.model)?;
        let rows = model.steps().map(|step| row(&model, &step));
        Ok(Inspection {
            model_bytes: model.file_bytes(),
            arena_bytes: model.arena_bytes(),
            input: model.input_shape().to_string(),
            classes: model.class_names().map(str::to_owned).collect(),
            golden: model.golden().count(),
            layers: rows.collect(),
        })
    }
}

fn row(model: &Model, step: &Step) -> LayerRow {
    let input = model.tensor(step.inputs[0]);
    let output = model.tensor(step.output);
    let (params, nonzeros) = layer_parameters(model, step);
    LayerRow {
        layer: usize::from(step.output) - 1,
        kind: step.layer.kind(),
        detail: detail(step, input.shape),
        inputs: step.inputs[..step.layer.inputs()].to_vec(),
        output: output.shape.to_string(),
        scale: output.scale,
        zero_point: output.zero_point,
        arena_offset: output.offset,
        params,
        nonzeros,
        storage: step.layout.weights.storage(),
        bytes: block_bytes(&step.layer, step.layout, input.shape),
        macs: model.macs(step),
    }
}

fn detail(step: &Step, input: shared::layer::Shape) -> String {
    let window = step.layer.window(input).map(|window| {
        let padding = format!("{:?}", window.padding).to_lowercase();
        format!("{} / {} {padding}", window.kernel, window.stride)
    });
    let activation = match step.layer.activation() {
        shared::layer::Activation::None => None,
        other => Some(format!("{other:?}").to_lowercase()),
    };
    let parts = [window, activation].into_iter().flatten();
    parts.collect::<Vec<_>>().join(", ")
}

impl Report for Inspection {}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = table([
            "tensor",
            "layer",
            "window / stride",
            "reads",
            "output",
            "arena at",
            "params",
            "non-zero",
            "stored",
            "bytes",
            "MACs",
        ]);
        rows.add_row(["0", "input", "", "", &self.input]);
        for row in &self.layers {
            let reads: Vec<String> = row.inputs.iter().map(u8::to_string).collect();
            rows.add_row([
                (row.layer + 1).to_string(),
                row.kind.to_owned(),
                row.detail.clone(),
                reads.join(", "),
                row.output.clone(),
                row.arena_offset.to_string(),
                thousands(row.params as u64),
                thousands(row.nonzeros as u64),
                match row.params {
                    0 => String::new(),
                    _ => row.storage.name().to_owned(),
                },
                thousands(row.bytes as u64),
                thousands(row.macs),
            ]);
        }
        let macs: u64 = self.layers.iter().map(|row| row.macs).sum();
        writeln!(f, "{rows}")?;
        writeln!(f, "classes: {}", self.classes.join(", "))?;
        write!(
            f,
            "model {} bytes, arena {} bytes, {} MACs, {} self-test vectors",
            thousands(self.model_bytes as u64),
            thousands(self.arena_bytes as u64),
            thousands(macs),
            self.golden
        )
    }
}
