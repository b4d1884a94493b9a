//! The modules of `mobilellm_text`, which the worker fetches when something needs them.

use crate::text::part::{self, Kind};
use js_sys::Function;
use wasm_bindgen::prelude::*;

fn words(thrown: &JsValue) -> String {
    let message = |error: &js_sys::Error| String::from(error.message());
    thrown.as_string().or_else(|| thrown.dyn_ref().map(message)).unwrap_or_else(|| format!("{thrown:?}"))
}

/// `open` takes a specification and gives a function from requests to answers; both throw strings.
fn install(kind: Kind, open: Function) {
    part::install(
        kind,
        Box::new(move |specification| {
            let call = open.call1(&JsValue::NULL, &specification.into()).map_err(|e| words(&e))?;
            let call: Function = call.dyn_into().map_err(|e| words(&e))?;
            Ok(Box::new(move |request: &str| {
                let answer = call.call1(&JsValue::NULL, &request.into()).map_err(|e| words(&e))?;
                answer.as_string().ok_or_else(|| "the answer is no text".into())
            }))
        }),
    );
}

#[wasm_bindgen(js_name = installTemplates)]
pub fn install_templates(open: Function) {
    install(Kind::Templates, open);
}

#[wasm_bindgen(js_name = installSplitter)]
pub fn install_splitter(open: Function) {
    install(Kind::Splitter, open);
}
