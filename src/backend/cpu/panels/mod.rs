//! A matrix in the layout in which it is read, and its products.
//!
//! Rows lie in panels of [`ROWS`], padded with zero rows; lanes are rows. A word holds neighbouring columns of one row, a
//! block one word of each of the 16 rows: see [`mod@f16`] and [`q8`].
//!
//! ```text
//! one row of x:    four panels from the quarters of the matrix are read side by side, since prefetchers fetch several streams
//!                  faster than one; x is splat over the rows
//! more rows of x:  a tile of a panel is widened to f32 once and multiplies every row of x, 8 rows x 4 tokens in registers
//! ```

mod f16;
mod q8;

use super::lanes::{F4, madd};
use crate::backend::Precision;
use crate::error::{Error, Result};
use std::ops::Range;

/// Rows of a panel.
pub const ROWS: usize = 16;
/// Panels that are read side by side for one row of x.
const STREAMS: usize = 4;
/// Rows of x that are multiplied together.
pub const TOKENS: usize = 4;
/// Columns of a tile: 16 KB of f32, half of a small first-level cache.
const DEPTH: usize = 256;

/// One word of each row of a panel.
type Block = [[u32; 4]; ROWS / 4];

/// Sums of the 16 rows of a panel.
type Sums = [F4; ROWS / 4];

/// (columns, 8 rows) of each half of a panel.
type Tile = [Vec<[f32; 8]>; 2];

/// How the weights of a matrix are held.
trait Form {
    /// Stores neighbouring rows of one panel, `row` and on, of finite values.
    fn write_rows<const K: usize>(&mut self, row: usize, values: [&[half::f16]; K]);
    /// Reads one row back.
    fn read_row(&self, row: usize, out: &mut [f32]);
    /// The products of some panels' rows with the one row of x.
    fn dot<const N: usize>(&self, panels: [usize; N], x: &Inputs) -> [Sums; N];
    /// Widens some columns of a panel; a row may be scaled by a constant of its own.
    fn fill(&self, panel: usize, columns: Range<usize>, tile: &mut Tile);
    /// Undoes the scaling of rows in sums over filled tiles.
    fn unscale(&self, panel: usize, sums: Sums) -> Sums;
}

/// (rows, cols) of weights; cols is a multiple of 32.
pub struct Panels {
    rows: usize,
    cols: usize,
    store: Store,
}

enum Store {
    F16(f16::Weights),
    Q8(q8::Weights),
}

impl Panels {
    pub fn new(rows: usize, cols: usize, precision: Precision) -> Result<Self> {
        let panels = rows.div_ceil(ROWS);
        let store = match precision {
            Precision::F16 => Store::F16(f16::Weights::new(panels, cols)?),
            Precision::Q8 => Store::Q8(q8::Weights::new(panels, cols)?),
        };
        Ok(Panels { rows, cols, store })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Stores whole rows, `first` and on. Every row must be written once before any is read.
    ///
    /// # Errors
    /// [`Error::Tensor`] without the tensor's name if a value is infinite or NaN.
    pub fn write_rows(&mut self, first: usize, values: &[half::f16]) -> Result<()> {
        // Every exponent below that of infinities: a maximum is vectorised, a search is not.
        if largest(values) >= 0x7c00 {
            return Err(Error::tensor("", "holds a value that is not finite"));
        }
        match &mut self.store {
            Store::F16(weights) => write_rows(weights, self.cols, first, values),
            Store::Q8(weights) => write_rows(weights, self.cols, first, values),
        }
        Ok(())
    }

    /// Reads one row back.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        match &self.store {
            Store::F16(weights) => weights.read_row(row, out),
            Store::Q8(weights) => weights.read_row(row, out),
        }
    }

    /// out = W . x for every row of x.
    pub fn multiply(&self, x: &Inputs, out: Output, scratch: &mut Scratch) {
        match &self.store {
            Store::F16(weights) => product(weights, self.rows, x, out, scratch),
            Store::Q8(weights) => product(weights, self.rows, x, out, scratch),
        }
    }
}

/// Panel by panel where whole ones come: a load spends two thirds of the time here that it does row by row (bench/README.md).
fn write_rows(weights: &mut impl Form, cols: usize, mut row: usize, mut values: &[half::f16]) {
    while !values.is_empty() {
        let whole = row.is_multiple_of(ROWS) && values.len() >= ROWS * cols;
        let count = if whole { ROWS } else { 1 };
        let (now, later) = values.split_at(count * cols);
        if whole {
            weights.write_rows::<ROWS>(row, std::array::from_fn(|i| &now[i * cols..][..cols]));
        } else {
            weights.write_rows(row, [now]);
        }
        (row, values) = (row + count, later);
    }
}

/// Puts neighbouring rows, `at` and on, into blocks.
fn put<const K: usize, const N: usize>(blocks: &mut [Block; N], at: usize, rows: &[[u32; N]; K]) {
    for (i, block) in blocks.iter_mut().enumerate() {
        let words = &mut block.as_flattened_mut()[at..][..K];
        words.iter_mut().zip(rows).for_each(|(word, row)| *word = row[i]);
    }
}

/// The largest magnitude, as bits.
fn largest(values: &[half::f16]) -> u16 {
    values.iter().fold(0, |largest, v| largest.max(v.to_bits() & 0x7fff))
}

/// Rows of x: (tokens, cols), in the forms that the products read.
pub struct Inputs {
    precision: Precision,
    cols: usize,
    rows: Vec<f32>,
    /// With more than one token: (token groups, cols) of TOKENS values.
    groups: Vec<[f32; TOKENS]>,
    /// With one token and 8-bit weights: x = step * these.
    integers: Vec<[i16; 4]>,
    step: f32,
}

impl Inputs {
    pub fn new(precision: Precision) -> Self {
        Inputs { precision, cols: 0, rows: Vec::new(), groups: Vec::new(), integers: Vec::new(), step: 0.0 }
    }

    /// Room for `tokens` rows of `cols`, to be filled and then [`Inputs::prepare`]d.
    pub fn resize(&mut self, tokens: usize, cols: usize) -> &mut [f32] {
        self.cols = cols;
        self.rows.resize(tokens * cols, 0.0);
        &mut self.rows
    }

    pub fn tokens(&self) -> usize {
        self.rows.len() / self.cols
    }

    /// Lays the rows out for products; call after the last change.
    pub fn prepare(&mut self) {
        if self.tokens() == 1 {
            if self.precision == Precision::Q8 {
                self.step = q8::to_integers(&self.rows, &mut self.integers);
            }
            return;
        }
        self.groups.clear();
        self.groups.resize(self.tokens().div_ceil(TOKENS) * self.cols, [0.0; TOKENS]);
        for (token, row) in self.rows.chunks_exact(self.cols).enumerate() {
            let group = &mut self.groups[token / TOKENS * self.cols..][..self.cols];
            group.iter_mut().zip(row).for_each(|(group, x)| group[token % TOKENS] = *x);
        }
    }
}

/// Where a product goes: column `column` and on of rows of `stride` values.
pub struct Output<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
    pub column: usize,
}

impl Output<'_> {
    /// Stores the sums of a panel whose first row is `first`, of `rows` in all.
    fn panel(&mut self, token: usize, first: usize, rows: usize, sums: Sums) {
        let mut values = [0.0; ROWS];
        sums.into_iter().zip(values.as_chunks_mut::<4>().0).for_each(|(sum, out)| sum.store(out));
        let count = ROWS.min(rows - first);
        self.values[token * self.stride + self.column + first..][..count].copy_from_slice(&values[..count]);
    }
}

/// Working memory of [`Panels::multiply`].
#[derive(Default)]
pub struct Scratch {
    tile: Tile,
    /// (token groups, halves): sums of the columns before the tile.
    sums: Vec<[TileSums; 2]>,
}

/// 8 rows x TOKENS.
type TileSums = [[F4; 2]; TOKENS];

fn product(weights: &impl Form, rows: usize, x: &Inputs, mut out: Output, scratch: &mut Scratch) {
    let panels = rows.div_ceil(ROWS);
    if x.tokens() == 1 {
        let stream = panels / STREAMS;
        for first in 0..stream {
            let together: [usize; STREAMS] = std::array::from_fn(|i| i * stream + first);
            for (panel, sums) in together.into_iter().zip(weights.dot(together, x)) {
                out.panel(0, panel * ROWS, rows, sums);
            }
        }
        for panel in stream * STREAMS..panels {
            let [sums] = weights.dot([panel], x);
            out.panel(0, panel * ROWS, rows, sums);
        }
        return;
    }
    let Scratch { tile, sums } = scratch;
    for panel in 0..panels {
        sums.clear();
        sums.resize(x.groups.len() / x.cols, [[[F4::splat(0.0); 2]; TOKENS]; 2]);
        for start in (0..x.cols).step_by(DEPTH) {
            let columns = start..x.cols.min(start + DEPTH);
            weights.fill(panel, columns.clone(), tile);
            for (group, sums) in x.groups.chunks_exact(x.cols).zip(sums.iter_mut()) {
                for (half, sums) in tile.iter().zip(sums) {
                    *sums = outer(half, &group[columns.clone()], *sums);
                }
            }
        }
        for token in 0..x.tokens() {
            let [[a, b], [c, d]] = sums[token / TOKENS].map(|half| half[token % TOKENS]);
            out.panel(token, panel * ROWS, rows, weights.unscale(panel, [a, b, c, d]));
        }
    }
}

/// sums += tile . group: 8 rows x TOKENS, column by column.
fn outer(tile: &[[f32; 8]], group: &[[f32; TOKENS]], mut sums: TileSums) -> TileSums {
    for (w, x) in tile.iter().zip(group) {
        let w = w.as_chunks::<4>().0;
        let w = [F4::load(&w[0]), F4::load(&w[1])];
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = F4::splat(*x);
            *sums = [madd(w[0], x, sums[0]), madd(w[1], x, sums[1])];
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::q8;
    use half::f16;
    use proptest::prelude::*;

    /// Weights of every kind that f16 has: normal of any size, subnormal, both zeros, the largest.
    fn weight() -> impl Strategy<Value = f16> {
        prop_oneof![
            8 => (-0.1f32..0.1).prop_map(f16::from_f32),
            2 => any::<u16>().prop_map(f16::from_bits).prop_filter("finite", |w| w.is_finite()),
            1 => (0u16..0x400).prop_map(f16::from_bits),
            1 => (0x8000u16..0x8400).prop_map(f16::from_bits),
            1 => Just(f16::ZERO),
            1 => Just(f16::NEG_ZERO),
        ]
    }

    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        let scale = [1e-20, 1e-3, 1.0, 300.0][seed as usize % 4];
        (0..count).map(|_| (random.f32() * 2.0 - 1.0) * scale).collect()
    }

    fn panels(weights: &[f16], cols: usize, precision: Precision) -> Panels {
        let mut panels = Panels::new(weights.len() / cols, cols, precision).unwrap();
        // In parts, so that panels come whole and torn.
        let (mut row, mut part) = (0, 1);
        for weights in weights.chunks(23 * cols) {
            for weights in weights.chunks(part * cols) {
                panels.write_rows(row, weights).unwrap();
                row += weights.len() / cols;
            }
            part = 23;
        }
        panels
    }

    fn multiply(panels: &Panels, x: &[f32], cols: usize, precision: Precision) -> Vec<f32> {
        let mut inputs = Inputs::new(precision);
        inputs.resize(x.len() / cols, cols).copy_from_slice(x);
        inputs.prepare();
        let mut out = vec![f32::NAN; x.len() / cols * panels.rows()];
        let output = Output { values: &mut out, stride: panels.rows(), column: 0 };
        panels.multiply(&inputs, output, &mut Scratch::default());
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn products_equal_the_exact_ones(
            rows in 1usize..60, groups in 1usize..14, tokens in 1usize..12, seed in any::<u64>(), pool in prop::collection::vec(weight(), 997),
        ) {
            let cols = 32 * groups;
            let weights: Vec<f16> = (0..rows * cols).map(|i| pool[i % 997]).collect();
            let x = values(tokens * cols, seed);
            let held = panels(&weights, cols, Precision::F16);
            let got = multiply(&held, &x, cols, Precision::F16);
            for (token, x) in x.chunks_exact(cols).enumerate() {
                let alone = multiply(&held, x, cols, Precision::F16);
                for (row, weights) in weights.chunks_exact(cols).enumerate() {
                    let terms = weights.iter().zip(x).map(|(w, x)| w.to_f64() * f64::from(*x));
                    let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                    let got = got[token * rows + row];
                    let floor = weights.iter().fold(0.0f64, |max, w| max.max(w.to_f64().abs())) * cols as f64 * 2f64.powi(-51);
                    prop_assert!((f64::from(got) - exact).abs() <= cols as f64 * 2f64.powi(-24) * size + floor, "{got} for {exact}");
                    prop_assert_eq!(got.to_bits(), alone[row].to_bits());
                }
            }
            let mut back = vec![0.0; cols];
            for (row, weights) in weights.chunks_exact(cols).enumerate() {
                held.read_row(row, &mut back);
                prop_assert!(weights.iter().zip(&back).all(|(w, b)| w.to_f32().to_bits() == b.to_bits()));
            }
        }

        #[test]
        fn eight_bit_products_equal_those_of_the_quantised_weights(
            rows in 1usize..60, groups in 1usize..14, tokens in 1usize..6, seed in any::<u64>(), pool in prop::collection::vec(weight(), 997),
        ) {
            let cols = 32 * groups;
            let weights: Vec<f16> = (0..rows * cols).map(|i| pool[i % 997]).collect();
            let held = panels(&weights, cols, Precision::Q8);
            let quantised: Vec<f32> = weights.as_chunks().0.iter().flat_map(|group| {
                let (scale, q) = q8::quantise(group);
                q.map(|q| scale.to_f32() * f32::from(q))
            }).collect();
            let x = values(tokens * cols, seed);
            let got = multiply(&held, &x, cols, Precision::Q8);
            let mut back = vec![0.0; cols];
            for (row, weights) in quantised.chunks_exact(cols).enumerate() {
                held.read_row(row, &mut back);
                prop_assert_eq!(weights, &back);
                for (token, x) in x.chunks_exact(cols).enumerate() {
                    let largest = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                    let exact: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    let size: f64 = weights.iter().map(|w| f64::from(w.abs() * largest)).sum();
                    let got = got[token * rows + row];
                    prop_assert!((f64::from(got) - exact).abs() <= size / 50_000.0 + 1e-30, "{got} for {exact}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        for value in [f16::INFINITY, f16::NEG_INFINITY, f16::NAN] {
            for precision in [Precision::F16, Precision::Q8] {
                let mut row = [f16::ONE; 32];
                row[17] = value;
                let error = Panels::new(1, 32, precision).unwrap().write_rows(0, &row).unwrap_err();
                assert_eq!(error.code(), Error::tensor("", "").code());
            }
        }
    }
}
