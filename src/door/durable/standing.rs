//! How a durable request stands.

use super::stored::Stored;
use stageline_base::Fault;
use stageline_core::durable::Life;
use stageline_store::Name;

/// What a request's log says.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// The log.
    pub log: Name,
    /// The request.
    pub stored: Stored,
    /// What it has come to.
    pub life: Life,
}

impl Standing {
    /// Of a log that says so; `None` if it begins with no request.
    ///
    /// # Errors
    /// `Internal` for a request that cannot be read.
    pub(super) fn of(log: Name, life: Life) -> Result<Option<Self>, Fault> {
        let stored = life.accepted.as_ref().map(|accepted| Stored::decode(&accepted.request)).transpose()?;
        Ok(stored.map(|stored| Self { log, stored, life }))
    }

    /// What has become of it, in a word: one of [`STATUSES`].
    pub(crate) fn status(&self) -> &'static str {
        let Life { ended, delivered, deaths, cancelled, owner, .. } = &self.life;
        let given_up = delivered.as_ref().is_some_and(Option::is_some);
        match ended {
            Some((Ok(_), _)) if !given_up => "answered",
            Some((Err(_), _)) if !given_up && *deaths == 0 => "failed",
            Some(_) => "dead",
            None if *cancelled => "cancelling",
            None if owner.is_some() => "running",
            None => "waiting",
        }
    }
}

/// What may become of a request. A dead one could not be told to whom it was to be, or its owners died with it.
pub(crate) const STATUSES: [&str; 6] = ["waiting", "running", "cancelling", "answered", "failed", "dead"];
