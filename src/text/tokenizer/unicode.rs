//! Classes of characters as the regular expressions of tokenizers mean them; the standard library has others
//! (`char::is_alphabetic` takes some marks for letters).

use std::sync::OnceLock;

/// A set of characters.
pub(super) struct Class {
    /// Where the set begins and ends in turn, each as the distance from the one before: seven bits a byte, the lowest
    /// first, the eighth bit where more follow.
    packed: &'static [u8],
    borders: OnceLock<Vec<u32>>,
}

impl Class {
    const fn new(packed: &'static [u8]) -> Self {
        Class { packed, borders: OnceLock::new() }
    }

    pub fn contains(&self, c: char) -> bool {
        let borders = self.borders.get_or_init(|| {
            let (mut borders, mut at, mut distance, mut shift) = (Vec::new(), 0, 0, 0);
            for &byte in self.packed {
                distance |= u32::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    at += distance;
                    borders.push(at);
                    (distance, shift) = (0, 0);
                }
            }
            borders
        });
        borders.partition_point(|&border| border <= u32::from(c)) % 2 == 1
    }
}

/// `\p{L}`
pub(super) static LETTER: Class = Class::new(include_bytes!("unicode/letter.bin"));
/// `\p{N}`
pub(super) static NUMBER: Class = Class::new(include_bytes!("unicode/number.bin"));
/// `\w`
pub(super) static WORD: Class = Class::new(include_bytes!("unicode/word.bin"));

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    fn packed(class: &Regex) -> Vec<u8> {
        let (mut packed, mut last, mut inside) = (Vec::new(), 0, false);
        for code in 0..0x11_0000 {
            // No character, and on neither side of any class's border.
            let Some(c) = char::from_u32(code) else { continue };
            if class.is_match(c.encode_utf8(&mut [0; 4])) != inside {
                let mut distance = code - last;
                while distance >= 0x80 {
                    packed.push(distance as u8 | 0x80);
                    distance >>= 7;
                }
                packed.push(distance as u8);
                (last, inside) = (code, !inside);
            }
        }
        packed
    }

    /// With `WRITE_CLASSES=1` the tables are written anew.
    #[test]
    fn classes_are_those_of_the_regular_expressions() {
        let classes = [("letter", r"\p{L}", &LETTER), ("number", r"\p{N}", &NUMBER), ("word", r"\w", &WORD)];
        for (name, expression, class) in classes {
            let regex = Regex::new(expression).unwrap();
            if std::env::var_os("WRITE_CLASSES").is_some() {
                let file = format!("{}/src/text/tokenizer/unicode/{name}.bin", env!("CARGO_MANIFEST_DIR"));
                std::fs::write(file, packed(&regex)).unwrap();
                continue;
            }
            for c in '\0'..=char::MAX {
                assert_eq!(class.contains(c), regex.is_match(c.encode_utf8(&mut [0; 4])), "{name} {c:?}");
            }
        }
        let space = Regex::new(r"\s").unwrap();
        for c in '\0'..=char::MAX {
            assert_eq!(c.is_whitespace(), space.is_match(c.encode_utf8(&mut [0; 4])), "{c:?}");
        }
    }
}
