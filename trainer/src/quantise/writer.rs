//! Writes `model.esp`. The types, sizes and alignments are `shared`'s, which
//! also reads the file; `docs/format.md` describes every byte.

use shared::arith::Multiplier;
use shared::kernels::add::AddFactors;
use shared::model::{
    ALIGN, CRC_RANGE, HEADER_BYTES, Head, MAGIC, Node, Quant, Resize, VERSION, crc32, weights_start,
};
use shared::{Engine, Model, ParseError};

/// Seed of the self-test inputs of every written file.
const GOLDEN_SEED: u32 = 0x0E5B_A11E;

/// A model file that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// More layers or classes than the format counts.
    #[error("{what}: {count} is more than the file format can count")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The descriptor could not be encoded.
    #[error("the model's description cannot be written: {0}")]
    Encode(#[from] postcard::Error),
    /// The written file is not accepted by the reader.
    #[error("the network does not fit the model file: {0}")]
    Refused(#[from] ParseError),
}

/// The block of one layer.
#[derive(Clone, Debug, Default)]
pub enum Block {
    /// Of a convolution: weights in the order of [`shared::layer::ParamShape`],
    /// then one bias and one factor for each output channel.
    Conv {
        /// int8 weights.
        weights: Vec<i8>,
        /// int32 biases.
        bias: Vec<i32>,
        /// Factors.
        factors: Vec<Multiplier>,
    },
    /// Of a dense layer: weights unit by unit, then one bias and one factor for
    /// each unit.
    Dense {
        /// int8 weights.
        weights: Vec<i8>,
        /// int32 biases.
        bias: Vec<i32>,
        /// Factors.
        factors: Vec<f64>,
    },
    /// Factors of an addition.
    Add(AddFactors),
    /// Factor of a softmax.
    Softmax(Multiplier),
    /// Nothing.
    #[default]
    None,
}

impl Block {
    fn bytes(&self) -> Vec<u8> {
        let pair = |m: &Multiplier| {
            [m.mantissa(), m.shift().into()]
                .into_iter()
                .flat_map(i32::to_le_bytes)
                .collect::<Vec<u8>>()
        };
        match self {
            Self::None => Vec::new(),
            Self::Softmax(factor) => pair(factor),
            Self::Add(f) => [f.a, f.b, f.output].iter().flat_map(pair).collect(),
            Self::Conv {
                weights,
                bias,
                factors,
            } => {
                let mut bytes = padded(weights);
                bytes.extend(bias.iter().flat_map(|b| b.to_le_bytes()));
                bytes.extend(factors.iter().flat_map(|m| m.mantissa().to_le_bytes()));
                bytes.extend(factors.iter().map(|m| m.shift() as u8));
                bytes
            }
            Self::Dense {
                weights,
                bias,
                factors,
            } => {
                let mut bytes = padded(weights);
                bytes.extend(bias.iter().flat_map(|b| b.to_le_bytes()));
                bytes.extend(factors.iter().flat_map(|f| f.to_le_bytes()));
                bytes
            }
        }
    }
}

/// Weights as bytes, padded with zeroes to a multiple of 4.
fn padded(weights: &[i8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = weights.iter().map(|&w| w as u8).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// One layer to write.
#[derive(Clone, Debug)]
pub struct WrittenLayer {
    /// What the descriptor says.
    pub node: Node,
    /// What the weight section holds.
    pub block: Block,
}

/// A model file before it is bytes.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// Shape of the input.
    pub input: shared::layer::Shape,
    /// Scale and zero point of the input.
    pub input_quant: Quant,
    /// What was done to pictures of another size.
    pub resize: Resize,
    /// Class names, none or one for each output.
    pub classes: Vec<String>,
    /// Layers in the order in which they run.
    pub layers: Vec<WrittenLayer>,
    /// Number of self-test vectors.
    pub golden: u8,
}

impl ModelFile {
    /// The bytes of the file, accepted by [`Model::parse`]. The expected
    /// outputs of the self-test are what the engine gives here.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WriteError> {
        let expected = self.expected_outputs()?;
        let bytes = self.encode(self.golden, &expected)?;
        Model::parse(&bytes)?;
        Ok(bytes)
    }

    fn expected_outputs(&self) -> Result<Vec<i8>, WriteError> {
        let bytes = self.encode(0, &[])?;
        let model = Model::parse(&bytes)?;
        let mut arena = vec![0; model.arena_bytes()];
        let mut expected = Vec::new();
        // The arena is as large as the model says.
        if let Ok(mut engine) = Engine::new(&model, &mut arena) {
            for index in 0..u32::from(self.golden) {
                let fill = |input: &mut [i8]| shared::golden::fill(GOLDEN_SEED, index, input);
                expected.extend_from_slice(engine.infer(fill));
            }
        }
        Ok(expected)
    }

    fn encode(&self, golden_count: u8, expected: &[i8]) -> Result<Vec<u8>, WriteError> {
        let descriptor = self.descriptor(golden_count)?;
        let mut file = vec![0; HEADER_BYTES];
        file.extend_from_slice(&descriptor);
        file.resize(weights_start(descriptor.len()), 0);
        for layer in &self.layers {
            file.extend_from_slice(&layer.block.bytes());
            file.resize(file.len().next_multiple_of(ALIGN), 0);
        }
        file.extend(expected.iter().map(|&y| y as u8));
        write_header(&mut file, descriptor.len())?;
        Ok(file)
    }

    fn descriptor(&self, golden_count: u8) -> Result<Vec<u8>, WriteError> {
        let head = Head {
            input: self.input,
            input_quant: self.input_quant,
            resize: self.resize,
            golden_seed: GOLDEN_SEED,
            golden_count,
            class_count: count("classes", self.classes.len())?,
            layer_count: count("layers", self.layers.len())?,
        };
        let mut bytes = postcard::to_stdvec(&head)?;
        for name in &self.classes {
            bytes = postcard::to_extend(name.as_str(), bytes)?;
        }
        for layer in &self.layers {
            bytes = postcard::to_extend(&layer.node, bytes)?;
        }
        Ok(bytes)
    }
}

fn count<T: TryFrom<usize>>(what: &'static str, count: usize) -> Result<T, WriteError> {
    T::try_from(count).map_err(|_| WriteError::TooMany { what, count })
}

fn write_header(file: &mut [u8], descriptor: usize) -> Result<(), WriteError> {
    let length: u32 = count("bytes", file.len())?;
    let descriptor: u32 = count("descriptor bytes", descriptor)?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0; 2]);
    header.extend_from_slice(&length.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&descriptor.to_le_bytes());
    file[..HEADER_BYTES].copy_from_slice(&header);
    let crc = crc32(file);
    file[CRC_RANGE].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}
