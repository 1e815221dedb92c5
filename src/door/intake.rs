//! Where requests are handed in, whichever way they came.

use crate::text::TextModel;
use crate::{Answer, Request};
use futures::future::BoxFuture;
use stageline_base::{Fault, Task};
use std::sync::Arc;

/// Where every client service hands its requests in.
pub trait Intake: Send + Sync {
    /// Checks, tokenizes and queues `request`.
    ///
    /// # Errors
    /// Whatever refuses it before any work is done: see [`stageline_base::FaultClass`].
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<Answer, Fault>>;

    /// Refuses what [`Intake::submit`] would refuse for what it asks, as far as that is known already.
    ///
    /// # Errors
    /// As there.
    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(std::future::ready(crate::check::check(request)))
    }

    /// What the model does with requests.
    fn task(&self) -> Task;

    /// The model's text, where it has one, once that is loaded.
    ///
    /// # Errors
    /// `Unavailable` if it does not load.
    fn text(&self) -> BoxFuture<'_, Result<Option<Arc<TextModel>>, Fault>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}
