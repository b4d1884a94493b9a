//! The JavaScript surface: thin glue between [`crate::engine`] and the worker of `js/`, and the browser's implementations of
//! the traits of [`crate::weights`]. The only room that names `wasm_bindgen`, `web_sys` and `js_sys`.
//!
//! One worker owns one [`Engine`] and makes one call at a time. Objects cross as plain JavaScript objects, conversations as
//! JSON text (whose numbers and key order survive). Errors are objects `{ code, message, remedy }`.

