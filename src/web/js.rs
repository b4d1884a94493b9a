//! Values across the boundary to JavaScript.

use crate::error::{Error, Result};
use crate::protocol::Thrown;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_wasm_bindgen::Serializer;
use wasm_bindgen::prelude::*;

pub type Js<T> = std::result::Result<T, JsValue>;

impl From<Error> for JsValue {
    fn from(error: Error) -> Self {
        let thrown = Thrown { code: error.code(), message: error.to_string(), remedy: error.remedy() };
        to_js(&thrown).unwrap_or_else(|_| JsValue::from_str(&thrown.message))
    }
}

pub fn to_js(value: &impl Serialize) -> Js<JsValue> {
    value.serialize(&Serializer::json_compatible()).map_err(|e| Error::internal(e).into())
}

pub fn from_js<T: DeserializeOwned>(value: JsValue) -> Result<T> {
    serde_wasm_bindgen::from_value(value).map_err(Error::internal)
}

pub fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(Error::internal)
}
