//! Why bytes are not a model.

use super::format::{MAX_FILE, MAX_LAYERS, MAX_NAME, VERSION};
use crate::layer::ShapeError;

/// Why bytes are not a model that this engine runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the header or than the header says.
    #[error("the file is cut off: {available} bytes of {needed}")]
    CutOff {
        /// Bytes the file should have.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// The header says more than [`MAX_FILE`] bytes.
    #[error("the file says that it is {length} bytes long; {MAX_FILE} are possible")]
    TooLong {
        /// Bytes it says it has.
        length: usize,
    },
    /// Not a model file.
    #[error("not a model file: it does not start with \"espalier\"")]
    Magic,
    /// Written by another version of espalier, as a rule a newer one.
    #[error("the file has format version {found} and this build reads version {VERSION}")]
    Version {
        /// Version in the file.
        found: u16,
    },
    /// A byte was changed after writing.
    #[error("the checksum is {found:#010x} and should be {stored:#010x}: the file is damaged")]
    Crc {
        /// In the header.
        stored: u32,
        /// Computed from the bytes.
        found: u32,
    },
    /// The descriptor cannot be decoded.
    #[error("the descriptor cannot be read at byte {offset} of the file")]
    Descriptor {
        /// Where the value starts that does not decode.
        offset: usize,
    },
    /// A reserved or padding byte is not zero, or bytes are left over.
    #[error("unexpected bytes at {offset}")]
    Stray {
        /// Where.
        offset: usize,
    },
    /// Class names do not match the output.
    #[error("{names} class names for {outputs} outputs")]
    Classes {
        /// Names in the file.
        names: usize,
        /// Elements of the output.
        outputs: usize,
    },
    /// A class name is longer than [`MAX_NAME`] bytes.
    #[error("class name {index} is longer than {MAX_NAME} bytes")]
    Name {
        /// Number of the class from 0.
        index: usize,
    },
    /// No layer, or more than [`MAX_LAYERS`].
    #[error("{count} layers; 1 to {MAX_LAYERS} are possible")]
    LayerCount {
        /// Layers in the file.
        count: usize,
    },
    /// A scale is not a positive number (tensor 0 is the input).
    #[error("tensor {tensor}: the scale is not a positive number")]
    Scale {
        /// Tensor.
        tensor: usize,
    },
    /// A layer reads a tensor that does not exist yet.
    #[error("layer {layer} reads a tensor that no earlier layer writes")]
    Source {
        /// Layer.
        layer: usize,
    },
    /// A layer does not take its input.
    #[error("layer {layer}: {error}")]
    Shape {
        /// Layer.
        layer: usize,
        /// Why.
        error: ShapeError,
    },
    /// A pool, flatten or softmax whose output scale is not the one it must be.
    #[error("layer {layer}: a {kind} cannot change the scale like this")]
    Rescale {
        /// Layer.
        layer: usize,
        /// Its kind.
        kind: &'static str,
    },
    /// A bias, mantissa or shift out of range.
    #[error("layer {layer}, channel {channel}: bias or multiplier out of range")]
    Parameter {
        /// Layer.
        layer: usize,
        /// Channel.
        channel: usize,
    },
    /// Sparse or coded weights of a layer that cannot have them.
    #[error("layer {layer} cannot have weights that are stored like this")]
    Layout {
        /// Layer.
        layer: usize,
    },
    /// Entries of sparse weights that are not there, or whose taps do not grow or
    /// are more than there are.
    #[error("layer {layer}, filter {filter}: its sparse weights are damaged")]
    Entries {
        /// Layer.
        layer: usize,
        /// Filter or unit.
        filter: usize,
    },
    /// A codebook of coded weights whose code is not complete, or whose values are not
    /// there, the same or -128.
    #[error("layer {layer}: the codebook of its weights is damaged")]
    Codebook {
        /// Layer.
        layer: usize,
    },
    /// Coded weights that are fewer or more than the layer has.
    #[error("layer {layer}: its coded weights are damaged")]
    Stream {
        /// Layer.
        layer: usize,
    },
    /// A temperature that is not positive and finite, or more answered pictures than there
    /// are.
    #[error("the model's confidence makes no sense")]
    Confidence,
    /// A tensor that nobody reads.
    #[error("tensor {tensor} is written and never read")]
    Unused {
        /// Tensor.
        tensor: usize,
    },
    /// A tensor that lies where another one, or scratch, still does.
    #[error("tensor {tensor} lies where bytes are in use")]
    Plan {
        /// Tensor.
        tensor: usize,
    },
    /// A plan with more bytes than all tensors side by side.
    #[error("the model asks for an arena of {bytes} bytes, more than all its tensors have")]
    Arena {
        /// Bytes it asks for.
        bytes: u32,
    },
}
