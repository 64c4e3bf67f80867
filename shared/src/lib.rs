//! The part of espalier that host and chip share: what a layer is, how int8
//! arithmetic rounds, the kernels, the memory plan and the model file.
//!
//! No standard library, no allocation, and no panic: behind [`Model::parse`] nothing
//! can fail, and before it everything ends in a [`ParseError`]. (`tests/panics.rs`
//! looks at the calls of the compiled engine.) Functions of [`layer`], [`arith`] and
//! [`kernels`] ask for the ranges that their comments state; with other arguments
//! they may give anything, and panic where overflow checks are on.
//!
//! An application on a chip needs the file that `espalier export` wrote, some RAM, and three calls. This is all of it:
//!
//! ```
//! use espalier_shared::{Engine, Model};
//!
//! static MODEL: &[u8] = include_bytes!("../../examples/fashion-mnist/4k/model.esp");
//!
//! let model = Model::parse(MODEL)?; // every check happens here
//! let mut arena = [0; 9 * 1024]; // `espalier inspect` says how many bytes
//! let mut engine = Engine::new(&model, &mut arena)?; // or: how many are missing
//! let picture = [0; 28 * 28]; // bytes of pixels, row by row, in the input's shape
//! engine.infer(|input| model.preprocessing().quantise(&picture, input)); // as often as there are pictures
//! let class = model.class_names().nth(engine.answer());
//! assert!(class.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! * [`Model::input_shape`] is what a picture has to be: height, width and channels.
//! * [`Engine::infer`] gives the scores, [`Engine::answer`] the class of the largest, [`Engine::is_sure`] whether it is
//!   far enough above the others.
//! * The arena may be on the stack or a static, and need not be zeroed. The model may be a static, as here, or a region
//!   of flash that something else has written.
//!
//! `examples/embassy-nrf52840` in espalier's repository does the same on a chip.
//!
//! | module | holds |
//! |---|---|
//! | [`layer`] | each layer's parameters, shape rule and cost, once |
//! | [`arith`] | requantisation: multipliers, shifts, rounding |
//! | [`kernels`] | portable reference kernels, one file per layer kind, and faster ones |
//! | [`plan`] | which bytes of the arena a tensor may take |
//! | [`model`] | the model file: header, descriptor, weights; [`Model::parse`] |
//! | [`engine`] | one inference |
//! | [`golden`] | self-test inputs from a seed |
//! | [`report`] | what a device run tells the host |
//! | [`request`] | what a host asks of a board, and how both send it |
//! | [`slots`] | two places for models in flash, and how a new one replaces an old one |
#![cfg_attr(not(test), no_std)]

pub mod arith;
pub mod engine;
pub mod golden;
pub mod kernels;
pub mod layer;
pub mod model;
pub mod plan;
pub mod report;
pub mod request;
pub mod slots;

pub use engine::{ArenaTooSmall, Engine};
pub use model::{Model, ParseError};

/// Index of the largest score, the first one on a tie; 0 for an empty slice.
pub fn argmax(scores: &[i8]) -> usize {
    let mut best = (0, i8::MIN);
    for (index, &score) in scores.iter().enumerate() {
        if score > best.1 {
            best = (index, score);
        }
    }
    best.0
}

/// How far the largest score is above the second, 0 to 255; 255 for one alone.
pub fn margin(scores: &[i8]) -> u8 {
    const BELOW_ALL: i16 = i8::MIN as i16 - u8::MAX as i16;
    let (mut first, mut second) = (BELOW_ALL, BELOW_ALL);
    for &score in scores {
        let score = i16::from(score);
        (first, second) = (first.max(score), second.max(first.min(score)));
    }
    (first - second).min(u8::MAX.into()) as u8
}

#[cfg(test)]
mod tests {
    use super::margin;

    #[test]
    fn a_margin_is_the_difference_of_the_two_largest() {
        let margins = [
            margin(&[3, -5, 10, 7]),
            margin(&[10, 3, 10]),
            margin(&[-128, 127]),
            margin(&[-128]),
            margin(&[127]),
            margin(&[]),
        ];
        assert_eq!(margins, [3, 0, 255, 255, 255, 0]);
    }
}
