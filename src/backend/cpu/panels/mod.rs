//! A matrix in the layout in which it is read, and its products.
//!
//! Rows lie in panels of [`ROWS`], padded with zero rows; lanes are rows. A word holds neighbouring columns of one row, a
//! block one word of each of the 16 rows: see [`mod@f16`], [`q8`] and [`q4`].
//!
//! ```text
//! one row of x:    four panels from the quarters of the matrix are read side by side, since prefetchers fetch several streams
//!                  faster than one; x is splat over the rows
//! more rows of x:  a tile of a panel is widened to f32 once and multiplies every row of x, 8 rows x 4 tokens in registers
//! ```

mod f16;
mod q4;
mod q8;

use super::lanes::{Columns, F4, columns, madd};
use crate::backend::Packing;
use crate::error::{Error, Result};
use crate::packed::{GROUP, repack};
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
    /// Stores neighbouring rows of one panel, `row` and on, packed as they are held here.
    fn write_rows<const K: usize>(&mut self, row: usize, rows: [&[u8]; K]);
    /// Reads one row back.
    fn read_row(&self, row: usize, out: &mut [f32]);
    /// The products of some panels' rows with the one row of x.
    fn dot<const N: usize>(&self, panels: [usize; N], x: &Inputs) -> [Sums; N];
    /// Widens some columns of a panel; a row may be scaled by a constant of its own.
    fn fill(&self, panel: usize, columns: Range<usize>, tile: &mut Tile);
    /// Undoes the scaling of rows in sums over filled tiles.
    fn unscale(&self, panel: usize, sums: Sums) -> Sums;
    /// Words of a panel as it is held.
    fn panel_words(&self) -> usize;
    /// Appends them.
    fn export(&self, panel: usize, words: &mut Vec<u32>);
    /// Takes a panel that another thread exported.
    fn import(&mut self, panel: usize, words: &[u32]);
}

/// (rows, cols) of weights; cols is a multiple of 32.
pub struct Panels {
    rows: usize,
    cols: usize,
    packing: Packing,
    store: Store,
}

enum Store {
    F16(f16::Weights),
    Q8(q8::Weights),
    Q4(q4::Weights),
}

impl Panels {
    pub fn new(rows: usize, cols: usize, packing: Packing) -> Result<Self> {
        let panels = rows.div_ceil(ROWS);
        let store = match packing {
            Packing::F16 => Store::F16(f16::Weights::new(panels, cols)?),
            Packing::Q8 => Store::Q8(q8::Weights::new(panels, cols)?),
            Packing::Q4 => Store::Q4(q4::Weights::new(panels, cols)?),
        };
        Ok(Panels { rows, cols, packing, store })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Stores whole rows, `first` and on, that come packed in any way. Every row must be written once before any is read.
    ///
    /// # Errors
    /// [`Error::Tensor`] without the tensor's name if a value is infinite or NaN.
    pub fn write_rows(&mut self, first: usize, packing: Packing, rows: &[u8]) -> Result<()> {
        let rows = repack(packing, self.packing, rows).map_err(|problem| Error::tensor("", problem))?;
        let width = self.packing.row_bytes(self.cols);
        match &mut self.store {
            Store::F16(weights) => write_rows(weights, width, first, &rows),
            Store::Q8(weights) => write_rows(weights, width, first, &rows),
            Store::Q4(weights) => write_rows(weights, width, first, &rows),
        }
        Ok(())
    }

    /// Reads one row back.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        match &self.store {
            Store::F16(weights) => weights.read_row(row, out),
            Store::Q8(weights) => weights.read_row(row, out),
            Store::Q4(weights) => weights.read_row(row, out),
        }
    }

    /// out = W . x of these rows, which begin with a panel, for every row of x.
    pub fn multiply(&self, rows: Range<usize>, x: &Inputs, out: Output, scratch: &mut Scratch) {
        match &self.store {
            Store::F16(weights) => product(weights, rows, x, out, scratch),
            Store::Q8(weights) => product(weights, rows, x, out, scratch),
            Store::Q4(weights) => product(weights, rows, x, out, scratch),
        }
    }

    /// Words of a panel as it is held, whatever the rows.
    pub fn panel_words(&self) -> usize {
        match &self.store {
            Store::F16(weights) => weights.panel_words(),
            Store::Q8(weights) => weights.panel_words(),
            Store::Q4(weights) => weights.panel_words(),
        }
    }

    /// Appends a panel as it is held.
    pub fn export(&self, panel: usize, words: &mut Vec<u32>) {
        match &self.store {
            Store::F16(weights) => weights.export(panel, words),
            Store::Q8(weights) => weights.export(panel, words),
            Store::Q4(weights) => weights.export(panel, words),
        }
    }

    /// Takes panels of a matrix of the same width and precision, `first` and on, as [`export`](Self::export) gave them.
    pub fn import(&mut self, first: usize, words: &[u32]) {
        let size = self.panel_words();
        for (i, words) in words.chunks_exact(size).enumerate() {
            match &mut self.store {
                Store::F16(weights) => weights.import(first + i, words),
                Store::Q8(weights) => weights.import(first + i, words),
                Store::Q4(weights) => weights.import(first + i, words),
            }
        }
    }
}

/// Panel by panel where whole ones come: a load spends two thirds of the time here that it does row by row (bench/README.md).
fn write_rows(weights: &mut impl Form, width: usize, mut row: usize, mut rows: &[u8]) {
    while rows.len() >= width {
        let whole = row.is_multiple_of(ROWS) && rows.len() >= ROWS * width;
        let count = if whole { ROWS } else { 1 };
        let (now, later) = rows.split_at(count * width);
        if whole {
            weights.write_rows::<ROWS>(row, std::array::from_fn(|i| &now[i * width..][..width]));
        } else {
            weights.write_rows(row, [now]);
        }
        (row, rows) = (row + count, later);
    }
}

/// Puts neighbouring rows, `at` and on, into blocks.
fn put<const K: usize, const N: usize>(blocks: &mut [Block; N], at: usize, rows: &[[u32; N]; K]) {
    for (i, block) in blocks.iter_mut().enumerate() {
        let words = &mut block.as_flattened_mut()[at..][..K];
        words.iter_mut().zip(rows).for_each(|(word, row)| *word = row[i]);
    }
}

/// Appends a panel and its rows' factors as words.
fn export<T: bytemuck::Pod>(panel: &[T], factors: &[f32], words: &mut Vec<u32>) {
    words.extend_from_slice(bytemuck::cast_slice(panel));
    words.extend_from_slice(bytemuck::cast_slice(&factors[..ROWS]));
}

/// Takes what [`export`] gave.
fn import<T: bytemuck::Pod>(panel: &mut [T], factors: &mut [f32], words: &[u32]) {
    let (held, scales) = words.split_at(words.len() - ROWS);
    panel.copy_from_slice(bytemuck::cast_slice(held));
    factors[..ROWS].copy_from_slice(bytemuck::cast_slice(scales));
}

/// The largest magnitude, as bits.
fn largest(values: impl Iterator<Item = half::f16>) -> u16 {
    values.fold(0, |largest, v| largest.max(v.to_bits() & 0x7fff))
}

/// Powers of two by which a row is raised whose largest f16 has these bits.
///
/// A half becomes an f32 by moving its bits to where f32 has them, which leaves the value times 2^-112. To keep f16 subnormals
/// (down to 2^-24) from becoming f32 subnormals, slow on many CPUs, each row is raised at load by the power of two that brings its
/// largest value to f16's top binade: exact, and no subnormal is left in a row whose largest value is below 64. The row's factor
/// ([`undo`]) undoes both scalings once a product.
fn shift(largest: u16) -> u32 {
    30 - u32::from(largest >> 10)
}

/// The bits of 2^shift times the value; no overflow by the choice of `shift`. As f32, times 2^-112, every f16 is exact,
/// subnormals included, and so is the product: there is no case to tell apart.
fn raised(value: half::f16, shift: u32) -> u32 {
    let bits = u32::from(value.to_bits());
    let factor = f32::from_bits((127 + shift) << 23);
    let magnitude = (f32::from_bits((bits & 0x7fff) << 13) * factor).to_bits() >> 13;
    bits & 0x8000 | magnitude
}

/// What a sum over raised weights is multiplied by.
fn undo(shift: u32) -> f32 {
    f32::from_bits((127 + 112 - shift) << 23)
}

/// The sums of a panel's rows times its factors.
fn scaled(sums: Sums, factors: &[f32]) -> Sums {
    let factors = factors.as_chunks::<4>().0;
    std::array::from_fn(|i| sums[i].mul(F4::load(&factors[i])))
}

/// Largest integer that stands for an activation: 2 * 7 bits and a sign.
const MOST: f32 = 16383.0;

/// Rows of x: (tokens, cols), in the forms that the products read.
pub struct Inputs {
    /// Whether any weights are in groups of integers.
    grouped: bool,
    cols: usize,
    rows: Vec<f32>,
    /// With more than one token: (token groups, cols) of TOKENS values.
    groups: Vec<[f32; TOKENS]>,
    /// With one token and weights in groups: x = its group's step * these.
    integers: Vec<[i16; 4]>,
    /// The same as 4-bit weights read it.
    columns: Vec<Columns>,
    /// Of each group.
    steps: Vec<Step>,
}

/// A group of integers.
#[derive(Clone, Copy)]
struct Step {
    size: f32,
    /// Sum of the integers.
    sum: f32,
}

impl Inputs {
    /// `grouped`: whether any weights that they meet are held in groups of integers.
    pub fn new(grouped: bool) -> Self {
        let (rows, groups) = (Vec::new(), Vec::new());
        Inputs { grouped, cols: 0, rows, groups, integers: Vec::new(), columns: Vec::new(), steps: Vec::new() }
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
            if self.grouped {
                self.round();
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

    /// x = step * integers, the largest of each group at +-[`MOST`].
    fn round(&mut self) {
        self.integers.clear();
        self.columns.clear();
        self.steps.clear();
        for group in self.rows.as_chunks::<GROUP>().0 {
            let largest = group.iter().fold(0.0f32, |most, x| if x.abs() > most { x.abs() } else { most });
            // A group whose step would be no normal number is nothing beside the others.
            let inverse = if largest > 1e-30 { MOST / largest } else { 0.0 };
            let mut sum = 0;
            for quad in group.as_chunks::<4>().0 {
                let quad = quad.map(|x| (x * inverse).round_ties_even() as i16);
                sum += quad.iter().map(|x| i32::from(*x)).sum::<i32>();
                self.integers.push(quad);
                self.columns.push(columns(quad));
            }
            self.steps.push(Step { size: largest / MOST, sum: sum as f32 });
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

fn product(weights: &impl Form, rows: Range<usize>, x: &Inputs, mut out: Output, scratch: &mut Scratch) {
    let (base, rows) = (rows.start / ROWS, rows.len());
    let panels = rows.div_ceil(ROWS);
    if x.tokens() == 1 {
        let stream = panels / STREAMS;
        for first in 0..stream {
            let together: [usize; STREAMS] = std::array::from_fn(|i| i * stream + first);
            for (panel, sums) in together.into_iter().zip(weights.dot(together.map(|panel| base + panel), x)) {
                out.panel(0, panel * ROWS, rows, sums);
            }
        }
        for panel in stream * STREAMS..panels {
            let [sums] = weights.dot([base + panel], x);
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
            weights.fill(base + panel, columns.clone(), tile);
            for (group, sums) in x.groups.chunks_exact(x.cols).zip(sums.iter_mut()) {
                for (half, sums) in tile.iter().zip(sums) {
                    *sums = outer(half, &group[columns.clone()], *sums);
                }
            }
        }
        for token in 0..x.tokens() {
            let [[a, b], [c, d]] = sums[token / TOKENS].map(|half| half[token % TOKENS]);
            out.panel(token, panel * ROWS, rows, weights.unscale(base + panel, [a, b, c, d]));
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
    use crate::packed::unpack;
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

    fn panels(weights: &[f16], cols: usize, packing: Packing) -> Panels {
        let mut panels = Panels::new(weights.len() / cols, cols, packing).unwrap();
        // In parts, so that panels come whole and torn.
        let (mut row, mut part) = (0, 1);
        for weights in weights.chunks(23 * cols) {
            for weights in weights.chunks(part * cols) {
                panels.write_rows(row, Packing::F16, bytemuck::cast_slice(weights)).unwrap();
                row += weights.len() / cols;
            }
            part = 23;
        }
        panels
    }

    fn multiply(panels: &Panels, x: &[f32], cols: usize) -> Vec<f32> {
        let mut inputs = Inputs::new(panels.packing != Packing::F16);
        inputs.resize(x.len() / cols, cols).copy_from_slice(x);
        inputs.prepare();
        let mut out = vec![f32::NAN; x.len() / cols * panels.rows()];
        let output = Output { values: &mut out, stride: panels.rows(), column: 0 };
        panels.multiply(0..panels.rows(), &inputs, output, &mut Scratch::default());
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
            let held = panels(&weights, cols, Packing::F16);
            let got = multiply(&held, &x, cols);
            for (token, x) in x.chunks_exact(cols).enumerate() {
                let alone = multiply(&held, x, cols);
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
        fn products_equal_those_of_the_packed_weights(
            rows in 1usize..60, groups in 1usize..14, tokens in 1usize..6, seed in any::<u64>(), pool in prop::collection::vec(weight(), 997),
        ) {
            let cols = GROUP * groups;
            let weights: Vec<f16> = (0..rows * cols).map(|i| pool[i % 997]).collect();
            let x = values(tokens * cols, seed);
            for packing in [Packing::Q8, Packing::Q4] {
                let held = panels(&weights, cols, packing);
                let packed = repack(Packing::F16, packing, bytemuck::cast_slice(&weights)).unwrap().into_owned();
                let got = multiply(&held, &x, cols);
                // The same bits if they come packed.
                let mut again = Panels::new(rows, cols, packing).unwrap();
                again.write_rows(0, packing, &packed).unwrap();
                prop_assert_eq!(&got, &multiply(&again, &x, cols));
                let mut back = vec![0.0; cols];
                for (row, weights) in unpack(packing, &packed).chunks_exact(cols).enumerate() {
                    held.read_row(row, &mut back);
                    prop_assert_eq!(weights, &back);
                    for (token, x) in x.chunks_exact(cols).enumerate() {
                        let exact: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        let size: f64 = weights.chunks(GROUP).zip(x.chunks(GROUP)).map(|(w, x)| {
                            let largest = |values: &[f32]| values.iter().fold(0.0f64, |max, v| max.max(f64::from(v.abs())));
                            largest(w) * largest(x) * GROUP as f64
                        }).sum();
                        let got = got[token * rows + row];
                        let floor = weights.iter().fold(0.0f64, |max, w| max.max(w.abs().into())) * cols as f64 * 2f64.powi(-51);
                        prop_assert!((f64::from(got) - exact).abs() <= size / 20_000.0 + floor, "{packing:?} {got} for {exact}");
                    }
                }
            }
        }
    }

    /// Panels that went to another thread and back compute the same, and some rows as they do among all.
    #[test]
    fn panels_move_between_threads_and_rows_stand_alone() {
        for packing in [Packing::F16, Packing::Q8, Packing::Q4] {
            let (rows, cols) = (7 * ROWS + 5, 96);
            let weights: Vec<f16> = values(rows * cols, 5).into_iter().map(f16::from_f32).collect();
            let x = values(3 * cols, 6);
            let held = panels(&weights, cols, packing);
            let mut words = Vec::new();
            (0..8).for_each(|panel| held.export(panel, &mut words));
            let mut moved = Panels::new(rows, cols, packing).unwrap();
            moved.import(0, &words);
            for tokens in [1, 3] {
                let x = &x[..tokens * cols];
                let all = multiply(&held, x, cols);
                assert_eq!(multiply(&moved, x, cols), all);
                let mut inputs = Inputs::new(packing != Packing::F16);
                inputs.resize(tokens, cols).copy_from_slice(x);
                inputs.prepare();
                let some = 2 * ROWS..rows;
                let mut out = vec![f32::NAN; tokens * some.len()];
                let output = Output { values: &mut out, stride: some.len(), column: 0 };
                moved.multiply(some.clone(), &inputs, output, &mut Scratch::default());
                for (out, all) in out.chunks_exact(some.len()).zip(all.chunks_exact(rows)) {
                    assert_eq!(*out, all[some.clone()]);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        for value in [f16::INFINITY, f16::NEG_INFINITY, f16::NAN] {
            for packing in [Packing::F16, Packing::Q8, Packing::Q4] {
                let mut row = [f16::ONE; 32];
                row[17] = value;
                let error = Panels::new(1, 32, packing)
                    .unwrap()
                    .write_rows(0, Packing::F16, bytemuck::cast_slice(&row))
                    .unwrap_err();
                assert_eq!(error.code(), Error::tensor("", "").code());
            }
        }
    }
}
