//! Where windows lie over the planes of a picture.

use std::ops::Range;

use shared::layer::{Shape, Window};

/// Windows over planes; each pair has the vertical side first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    /// Sides of a plane.
    pub input: [usize; 2],
    /// Windows in each direction.
    pub output: [usize; 2],
    /// Sides of a window.
    pub kernel: [usize; 2],
    stride: [usize; 2],
    /// Places outside the plane, above and to the left.
    before: [usize; 2],
}

/// A row of outputs, and the inputs that one place of their windows is over.
pub struct Row {
    /// Outputs.
    pub out: Range<usize>,
    /// Inputs; every [`Windows::step`]th counts.
    pub input: Range<usize>,
}

impl Windows {
    /// Those of a layer over inputs of a shape, with outputs of a shape.
    pub fn new(window: Window, input: Shape, output: Shape) -> Self {
        let (top, left) = window.padding_before(input);
        let (kernel, stride) = (window.kernel, window.stride);
        Self {
            input: [input.height(), input.width()],
            output: [output.height(), output.width()],
            kernel: [kernel.height(), kernel.width()],
            stride: [stride.height(), stride.width()],
            before: [top, left],
        }
    }

    /// Places in a window.
    pub fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Values in a plane.
    pub fn plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Windows on a plane.
    pub fn count(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Changes each input of a row by the output before it.
    pub fn scatter(&self, row: &Row, y: &[f32], x: &mut [f32], change: impl Fn(&mut f32, f32)) {
        // Without steps between them the compiler takes several at once.
        let (x, y) = (&mut x[row.input.clone()], &y[row.out.clone()]);
        match self.stride[1] {
            1 => x.iter_mut().zip(y).for_each(|(x, &y)| change(x, y)),
            step => {
                let x = x.iter_mut().step_by(step);
                x.zip(y).for_each(|(x, &y)| change(x, y));
            }
        }
    }

    /// From one input of a [`Row`] to the next.
    pub fn step(&self) -> usize {
        self.stride[1]
    }

    /// Whether windows of 2x2 lie side by side, all inside the plane.
    pub fn halve(&self) -> bool {
        let inside = |side: usize| 2 * self.output[side] <= self.input[side];
        (self.kernel, self.stride, self.before) == ([2, 2], [2, 2], [0, 0])
            && inside(0)
            && inside(1)
    }

    /// For one place of the window, the rows that are inside the plane.
    pub fn rows(&self, place: usize) -> impl Iterator<Item = Row> + '_ {
        let [down, right] = [place / self.kernel[1], place % self.kernel[1]];
        let columns = self.inside(1, right);
        let first = (columns.start * self.stride[1] + right).saturating_sub(self.before[1]);
        let span = match columns.len() {
            0 => 0,
            count => (count - 1) * self.stride[1] + 1,
        };
        self.inside(0, down)
            .filter(move |_| span > 0)
            .map(move |row| {
                let above = row * self.stride[0] + down - self.before[0];
                let (out, input) = (row * self.output[1], above * self.input[1] + first);
                Row {
                    out: out + columns.start..out + columns.end,
                    input: input..input + span,
                }
            })
    }

    /// The same over values of which each has `lanes` numbers: ranges of inputs and outputs
    /// that belong together number by number.
    pub fn pairs(
        &self,
        place: usize,
        lanes: usize,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        let wide = move |range: Range<usize>| range.start * lanes..range.end * lanes;
        let step = self.stride[1];
        self.rows(place).flat_map(move |Row { out, input }| {
            // Without steps between them, a row at once.
            let length = if step == 1 { out.len() } else { 1 };
            out.step_by(length)
                .zip(input.step_by(length * step))
                .map(move |(out, input)| (wide(input..input + length), wide(out..out + length)))
        })
    }

    /// In one direction, the windows of which a place is inside the plane.
    fn inside(&self, side: usize, place: usize) -> Range<usize> {
        let (stride, before) = (self.stride[side], self.before[side]);
        // window * stride + place - before is 0 to below the side.
        let first = before.saturating_sub(place).div_ceil(stride);
        let end = (self.input[side] + before)
            .saturating_sub(place)
            .div_ceil(stride);
        let end = end.min(self.output[side]);
        first.min(end)..end
    }
}
