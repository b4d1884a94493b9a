//! What the leader tells every rank, as words.

use crate::backend::{Packing, Role};
use crate::error::{Error, Result};

/// Commands name matrices, gains and caches by number, in the order of their making.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Command<'a> {
    Matrix {
        role: Role,
        rows: usize,
        cols: usize,
    },
    /// The bytes of whole rows; the last word may be filled up.
    WriteRows {
        matrix: u32,
        first: usize,
        packing: Packing,
        words: &'a [u32],
    },
    /// f32 bits.
    Gain {
        words: &'a [u32],
    },
    Cache {
        cache: u32,
        layers: usize,
    },
    Fork {
        cache: u32,
        from: u32,
        len: usize,
    },
    Drop {
        cache: u32,
    },
    /// One pass: ids at positions `start` and on, then the verbs.
    Pass {
        start: usize,
        tokens: &'a [u32],
        verbs: &'a [VerbWords],
    },
    /// The leader gets every rank's rows of a matrix.
    Collect {
        matrix: u32,
    },
    /// Panels of a part of a matrix, in the form in which they are held, for whoever has that part and has no weights yet.
    Panels {
        matrix: u32,
        part: usize,
        /// Of the whole part.
        first: usize,
        words: &'a [u32],
    },
    /// Keys and values of some positions: from each rank to the leader, or back.
    Sync {
        cache: u32,
        from: usize,
        to: usize,
        up: bool,
    },
    /// So many units of work of no use and a meeting, to see how fast that is.
    Probe {
        units: u32,
    },
    Quit,
}

/// One recorded verb and the numbers that it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verb {
    Embed {
        table: u32,
    },
    Qkv {
        gain: u32,
        weight: u32,
        cache: u32,
        layer: u32,
    },
    Attend {
        cache: u32,
        layer: u32,
    },
    MatmulAdd {
        weight: u32,
    },
    GateUp {
        gain: u32,
        weight: u32,
    },
    /// Of rows `first..end` of the pass.
    Logits {
        gain: u32,
        head: u32,
        first: u32,
        end: u32,
    },
}

/// A verb on its way to the other ranks: its kind, then its numbers.
pub type VerbWords = [u32; 5];

impl Verb {
    pub fn encode(self) -> VerbWords {
        match self {
            Verb::Embed { table } => [0, table, 0, 0, 0],
            Verb::Qkv { gain, weight, cache, layer } => [1, gain, weight, cache, layer],
            Verb::Attend { cache, layer } => [2, cache, layer, 0, 0],
            Verb::MatmulAdd { weight } => [3, weight, 0, 0, 0],
            Verb::GateUp { gain, weight } => [4, gain, weight, 0, 0],
            Verb::Logits { gain, head, first, end } => [5, gain, head, first, end],
        }
    }

    pub fn decode([kind, a, b, c, d]: VerbWords) -> Result<Self> {
        Ok(match kind {
            0 => Verb::Embed { table: a },
            1 => Verb::Qkv { gain: a, weight: b, cache: c, layer: d },
            2 => Verb::Attend { cache: a, layer: b },
            3 => Verb::MatmulAdd { weight: a },
            4 => Verb::GateUp { gain: a, weight: b },
            5 => Verb::Logits { gain: a, head: b, first: c, end: d },
            _ => return Err(garbled()),
        })
    }
}

fn garbled() -> Error {
    Error::internal("garbled command between CPU threads")
}

const PACKINGS: [Packing; 3] = [Packing::F16, Packing::Q8, Packing::Q4];
const ROLES: [Role; 6] = [Role::Embedding, Role::Head, Role::Qkv, Role::AttentionOut, Role::GateUp, Role::Down];

impl<'a> Command<'a> {
    /// Words besides the payload.
    pub const HEADER: usize = 4;

    pub fn encode(&self, out: &mut Vec<u32>) {
        let (header, payload): ([u32; 4], [&[u32]; 2]) = match *self {
            Command::Matrix { role, rows, cols } => ([0, role as u32, rows as u32, cols as u32], [&[], &[]]),
            Command::WriteRows { matrix, first, packing, words } => {
                ([1, matrix, first as u32, packing as u32], [words, &[]])
            }
            Command::Gain { words } => ([2, 0, 0, 0], [words, &[]]),
            Command::Cache { cache, layers } => ([3, cache, layers as u32, 0], [&[], &[]]),
            Command::Fork { cache, from, len } => ([4, cache, from, len as u32], [&[], &[]]),
            Command::Drop { cache } => ([5, cache, 0, 0], [&[], &[]]),
            Command::Pass { start, tokens, verbs } => {
                ([6, start as u32, tokens.len() as u32, 0], [tokens, bytemuck::cast_slice(verbs)])
            }
            Command::Quit => ([7, 0, 0, 0], [&[], &[]]),
            Command::Collect { matrix } => ([8, matrix, 0, 0], [&[], &[]]),
            Command::Panels { matrix, part, first, words } => ([9, matrix, part as u32, first as u32], [words, &[]]),
            Command::Sync { cache, from, to, up } => {
                ([if up { 10 } else { 11 }, cache, from as u32, to as u32], [&[], &[]])
            }
            Command::Probe { units } => ([12, units, 0, 0], [&[], &[]]),
        };
        out.clear();
        out.extend(header);
        payload.iter().for_each(|words| out.extend_from_slice(words));
    }

    pub fn decode(words: &'a [u32]) -> Result<Self> {
        let (&[code, a, b, c], payload) = words.split_first_chunk::<{ Command::HEADER }>().ok_or_else(garbled)?;
        Ok(match code {
            0 => Command::Matrix {
                role: *ROLES.get(a as usize).ok_or_else(garbled)?,
                rows: b as usize,
                cols: c as usize,
            },
            1 => Command::WriteRows {
                matrix: a,
                first: b as usize,
                packing: *PACKINGS.get(c as usize).ok_or_else(garbled)?,
                words: payload,
            },
            2 => Command::Gain { words: payload },
            3 => Command::Cache { cache: a, layers: b as usize },
            4 => Command::Fork { cache: a, from: b, len: c as usize },
            5 => Command::Drop { cache: a },
            6 => {
                let (tokens, verbs) = payload.split_at_checked(b as usize).ok_or_else(garbled)?;
                let verbs = bytemuck::try_cast_slice(verbs).map_err(|_| garbled())?;
                Command::Pass { start: a as usize, tokens, verbs }
            }
            7 => Command::Quit,
            8 => Command::Collect { matrix: a },
            9 => Command::Panels { matrix: a, part: b as usize, first: c as usize, words: payload },
            10 | 11 => Command::Sync { cache: a, from: b as usize, to: c as usize, up: code == 10 },
            12 => Command::Probe { units: a },
            _ => return Err(garbled()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_the_words() {
        let verbs = [
            Verb::Embed { table: 1 },
            Verb::Qkv { gain: 1, weight: 2, cache: 3, layer: 4 },
            Verb::Attend { cache: 1, layer: 2 },
            Verb::MatmulAdd { weight: 1 },
            Verb::GateUp { gain: 1, weight: 2 },
            Verb::Logits { gain: 1, head: 2, first: 3, end: 4 },
        ];
        let encoded = verbs.map(Verb::encode);
        assert_eq!(encoded.map(|words| Verb::decode(words).unwrap()), verbs);
        assert_eq!(Verb::decode([6, 0, 0, 0, 0]).unwrap_err().code(), "internal");
        let mut words = Vec::new();
        let all_roles = ROLES.map(|role| Command::Matrix { role, rows: 960, cols: 576 });
        let others = [
            Command::WriteRows { matrix: 3, first: 64, packing: Packing::F16, words: &[1, 2, 3] },
            Command::WriteRows { matrix: 3, first: 64, packing: Packing::Q8, words: &[1, 2, 3] },
            Command::WriteRows { matrix: 3, first: 64, packing: Packing::Q4, words: &[1, 2, 3] },
            Command::Gain { words: &[9, 8] },
            Command::Cache { cache: 5, layers: 30 },
            Command::Fork { cache: 6, from: 5, len: 77 },
            Command::Drop { cache: 5 },
            Command::Pass { start: 12, tokens: &[7, 8, 9], verbs: &encoded },
            Command::Pass { start: 0, tokens: &[], verbs: &[] },
            Command::Quit,
            Command::Collect { matrix: 4 },
            Command::Panels { matrix: 4, part: 2, first: 7, words: &[1, 2] },
            Command::Sync { cache: 5, from: 3, to: 9, up: true },
            Command::Sync { cache: 5, from: 3, to: 9, up: false },
            Command::Probe { units: 3 },
        ];
        for command in all_roles.iter().chain(&others) {
            command.encode(&mut words);
            assert_eq!(Command::decode(&words).unwrap(), *command);
        }
        for bad in
            [&[][..], &[1, 2, 3], &[13, 0, 0, 0], &[0, 6, 0, 0], &[1, 0, 0, 3], &[6, 0, 5, 0, 1], &[6, 0, 0, 0, 1]]
        {
            assert_eq!(Command::decode(bad).unwrap_err().code(), "internal");
        }
    }
}
