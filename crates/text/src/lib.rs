//! What only some models need of text: chat templates, and the cutting of text by rules that the engine does not know
//! by heart. The engine links this natively; in a browser each feature is a wasm module of its own, fetched when it is needed.
//!
//! Both sides talk JSON text: [`Part::open`] takes a specification, [`Part::call`] a request.
//!
//! | feature | specification | request | answer |
//! | --- | --- | --- | --- |
//! | `templates` | `{templates, tokens}` | [`templates::Request`] | the rendered text |
//! | `splitter` | `{normalizer, pre_tokenizer, added}` | [`splitter::Request`] | texts, and ids of added tokens |

#[cfg(feature = "templates")]
mod dialect;
#[cfg(feature = "templates")]
mod python;
#[cfg(feature = "splitter")]
pub mod splitter;
#[cfg(feature = "templates")]
pub mod templates;

use serde::{Deserialize, Serialize};

/// Something that is opened by its specification and then answers requests.
pub trait Part: Sized {
    /// # Errors
    /// What is wrong with the specification, in words.
    fn open(specification: &str) -> Result<Self, String>;

    /// # Errors
    /// Why there is no answer, in words.
    fn call(&self, request: &str) -> Result<String, String>;
}

#[cfg(feature = "templates")]
impl Part for templates::Templates {
    fn open(specification: &str) -> Result<Self, String> {
        Self::new(parse(specification)?)
    }

    fn call(&self, request: &str) -> Result<String, String> {
        write(&self.render(&parse(request)?)?)
    }
}

#[cfg(feature = "splitter")]
impl Part for splitter::Splitter {
    fn open(specification: &str) -> Result<Self, String> {
        Self::new(parse(specification)?)
    }

    fn call(&self, request: &str) -> Result<String, String> {
        write(&self.split(&parse(request)?)?)
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

fn write(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| e.to_string())
}

/// The exports of a module with one feature: its [`Part`], with errors thrown as strings.
#[cfg(all(target_arch = "wasm32", target_os = "unknown", not(all(feature = "templates", feature = "splitter"))))]
mod web {
    use super::Part as _;
    #[cfg(feature = "splitter")]
    use super::splitter::Splitter as Inner;
    #[cfg(feature = "templates")]
    use super::templates::Templates as Inner;
    use wasm_bindgen::prelude::*;

    #[wasm_bindgen]
    pub struct Part(Inner);

    #[wasm_bindgen]
    impl Part {
        #[wasm_bindgen(constructor)]
        pub fn new(specification: &str) -> Result<Part, String> {
            Inner::open(specification).map(Part)
        }

        pub fn call(&self, request: &str) -> Result<String, String> {
            self.0.call(request)
        }
    }
}
