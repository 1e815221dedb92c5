//! Durable requests in a store that no door has, for its operator: who has the file may do what the key named admin may.

use super::listing::listed;
use super::replies::{Listing, Shelved, TensorShape};
use super::requests::body;
use crate::durable::{Keeper, KeeperSetup, Standing};
use crate::http::json::written;
use crate::keys::ADMIN;
use stageline_base::{Fault, NamedTensor};
use std::sync::Arc;

/// See the module. No request is run here, and no text is known: that takes the model's tokenizer.
pub struct Shelf {
    keeper: Arc<Keeper>,
}

impl Shelf {
    /// The requests that are kept as `setup` says.
    ///
    /// # Errors
    /// As [`Keeper::new`].
    pub fn new(setup: KeeperSetup) -> Result<Self, Fault> {
        Ok(Self { keeper: Keeper::new(setup)? })
    }

    /// The newest `most`, as `GET /requests` tells them.
    ///
    /// # Errors
    /// `Unavailable` if the store does not say.
    pub async fn list(&self, most: usize) -> Result<String, Fault> {
        let requests = self.keeper.list(ADMIN, most, listed).await?;
        Ok(written(&Listing { requests }))
    }

    /// One of them, and its answer as far as it is: the tokens of a text, the shapes of tensors. `None` if there is none of that id.
    ///
    /// # Errors
    /// As [`Shelf::list`], and `Internal` for what cannot be read.
    pub async fn show(&self, id: &str) -> Result<Option<String>, Fault> {
        Ok(self.keeper.look(ADMIN, id).await?.map(|standing| written(&shelved(&standing))))
    }

    /// Has one be tried anew, by the door that opens the store next: how it stands then.
    ///
    /// # Errors
    /// `InvalidRequest` if there is nothing to try again, and as [`Shelf::show`].
    pub async fn retry(&self, id: &str) -> Result<Option<String>, Fault> {
        Ok(self.keeper.retry(ADMIN, id).await?.map(|standing| written(&body(&standing))))
    }

    /// Has one end; whether there is one.
    ///
    /// # Errors
    /// As [`Shelf::show`].
    pub async fn cancel(&self, id: &str) -> Result<bool, Fault> {
        self.keeper.cancel(ADMIN, id).await
    }
}

fn shelved(standing: &Standing) -> Shelved {
    let life = &standing.life;
    let shape = |named: &NamedTensor| TensorShape {
        name: named.name.to_string(),
        element: named.tensor.element().as_str(),
        shape: named.tensor.shape().to_vec(),
    };
    Shelved {
        listed: listed(standing),
        token_ids: life.tokens.iter().map(|token| token.id).collect(),
        tensors: life.answer.iter().flat_map(|tensors| tensors.iter()).map(shape).collect(),
    }
}
