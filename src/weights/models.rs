//! What is stored: listed, deleted, and compared with what a source offers.

use super::checkpoint::{Checkpoint, Options};
use super::record::{NEXT, Record, collect, next, use_lock};
use super::source::{Host, LockMode, Source, Store};
use crate::error::{Error, Result};
use serde::Serialize;

/// A model in storage.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "ModelRecord"))]
#[serde(rename_all = "camelCase")]
pub struct StoredModel {
    /// What load and delete take: address, hub id, or hub id and revision.
    pub source: String,
    /// Commit of a hub's repository, else null.
    pub revision: Option<String>,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of the whole model.
    pub total_bytes: u64,
    /// Whether every piece is there.
    pub complete: bool,
    /// Milliseconds since 1970-01-01 UTC.
    pub last_used: f64,
}

/// Every stored model, the one used last first. Pieces that two models share count for both.
pub async fn list<T: Store>(store: &T) -> Result<Vec<StoredModel>> {
    let mut models = Vec::new();
    for (id, record) in store.records().await? {
        let Some(record) = Record::parse(&record).filter(|_| !id.ends_with(NEXT)) else { continue };
        let parts = record.parts(&id);
        let keys: Vec<_> = parts.iter().map(|(key, _)| key.clone()).collect();
        let present = store.present(&keys).await?;
        let there = parts.iter().zip(&present).filter(|(_, present)| **present);
        models.push(StoredModel {
            bytes: there.map(|((_, bytes), _)| bytes).sum(),
            total_bytes: parts.iter().map(|(_, bytes)| bytes).sum(),
            complete: record.complete && present.iter().all(|p| *p),
            revision: record.commit,
            last_used: record.last_used,
            source: id,
        });
    }
    models.sort_by(|a, b| b.last_used.total_cmp(&a.last_used));
    Ok(models)
}

/// Deletes a model and what only it used. [`Error::InUse`] while any tab has it loaded or is loading it.
pub async fn delete<T: Store>(store: &T, id: &str) -> Result<()> {
    let Some(_lock) = store.lock(&use_lock(id), LockMode::Exclusive, false).await? else {
        return Err(Error::InUse { model: id.into() });
    };
    store.delete_record(id).await?;
    store.delete_record(&next(id)).await?;
    collect(store).await.map(drop)
}

/// Whether a model is here: all of it, a part, nothing but it can be fetched, or not even that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// Loads without network.
    Cached,
    /// Some pieces are stored; the rest can be fetched.
    Partial,
    Downloadable,
    /// Not there, gated, or out of reach.
    Unavailable,
}

/// How the model of `source` could be loaded now.
pub async fn availability<H, S, T>(host: H, source: S, store: T) -> Result<Availability>
where
    H: Host,
    S: Source<Bytes = H::Bytes>,
    T: Store<Bytes = H::Bytes>,
{
    match Checkpoint::open(host, source, store, Options::default(), |_| {}).await {
        Ok(checkpoint) => {
            let sizes = checkpoint.sizes().await;
            Ok(match sizes.missing_bytes {
                0 => Availability::Cached,
                missing if missing < sizes.total_bytes => Availability::Partial,
                _ => Availability::Downloadable,
            })
        }
        Err(
            Error::FileNotFound { .. }
            | Error::WebPage { .. }
            | Error::Gated { .. }
            | Error::Network { .. }
            | Error::Csp { .. },
        ) => Ok(Availability::Unavailable),
        Err(error) => Err(error),
    }
}
