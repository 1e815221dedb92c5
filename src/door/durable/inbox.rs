//! The work queue: jobs that whoever may write to the store puts there, each a request that is kept.

use super::accepting::{Asking, Declined, Key};
use super::keeper::{AGAIN, DEAD_KEPT, Keeper};
use super::stored::{Api, Job};
use crate::Intake;
use stageline_base::{Fault, FaultClass, Trace};
use stageline_core::durable::Logged;
use stageline_metrics::Kept as Event;
use stageline_store::{self as store, Name, StoreError};
use std::sync::Arc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The queue's name: behind it the store says to which subject a broker's clients send.
const INBOX: (&str, &str) = ("inbox", "requests");

impl Keeper {
    /// Takes jobs in until `closing`; `intake` says what is a request.
    pub(super) async fn take_in(self: Arc<Self>, intake: Arc<dyn Intake>, closing: CancellationToken) {
        let Some(inbox) = Name::new(INBOX.0, INBOX.1) else { return };
        loop {
            let taken = tokio::select! {
                () = closing.cancelled() => return,
                taken = self.setup.store.take(&inbox) => taken,
            };
            match taken {
                Ok(job) => {
                    let (keeper, intake, taken) = (Arc::clone(&self), Arc::clone(&intake), job.clone());
                    // What breaks at a job must not break at it again and again.
                    if tokio::spawn(async move { keeper.took(taken, &*intake).await }).await.is_err() {
                        let fault = Fault::internal("the door broke at this job: see its log");
                        if self.buries(&job, fault).await.is_ok() {
                            let _ = self.setup.store.done(&job.id).await;
                        }
                    }
                }
                // Said already by whoever owns requests.
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Keeps the request that a job is, or its corpse.
    async fn took(&self, job: store::Job, intake: &dyn Intake) {
        let outcome = match self.read(&job, intake).await {
            Ok(read) => self.keeps(&job, read).await,
            Err(fault) => Err(fault),
        };
        let store = &self.setup.store;
        let said = match outcome {
            Ok(()) => store.done(&job.id).await,
            Err(fault) if matches!(fault.class, FaultClass::Overloaded | FaultClass::Unavailable) => {
                store.again(&job.id, AGAIN).await
            }
            Err(fault) => match self.buries(&job, fault).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => store.done(&job.id).await,
                Err(_) => store.again(&job.id, AGAIN).await,
            },
        };
        if let Err(error) = said {
            // It comes again, and is the same request then.
            tracing::debug!(job = job.number, %error, "the store did not hear what became of a job");
        }
    }

    /// What a job asks, if that can be read, and how long it may take.
    async fn read(&self, job: &store::Job, intake: &dyn Intake) -> Result<(Job, std::time::Duration), Fault> {
        let asked = self.setup.forms.job(&job.bytes)?;
        let request = self.setup.forms.read(asked.api, &asked.content_type, &asked.body, intake.task())?;
        intake.check(&request).await?;
        if let Some(url) = &asked.callback {
            self.setup.outgoing.check("callback_url", url)?;
        }
        let time = request.deadline.unwrap_or(self.setup.timeout);
        Ok((asked, time))
    }

    async fn keeps(&self, job: &store::Job, (asked, time): (Job, std::time::Duration)) -> Result<(), Fault> {
        let key = match (&asked.key, &asked.call_id) {
            (Some(key), _) => Key::Idempotency(key),
            (None, Some(id)) => Key::Call(id),
            (None, None) => Key::Job(job.number),
        };
        let number = format!("job-{}", job.number);
        let callback = asked.callback.as_deref().or(self.setup.callback_url.as_deref());
        let asking = Asking {
            principal: "",
            key,
            call_id: asked.call_id.as_deref().unwrap_or(&number),
            trace: self.new_trace(),
            api: asked.api,
            content_type: &asked.content_type,
            body: &asked.body,
            time,
            callback,
        };
        let kept = self.accept(asking).await.map_err(|declined| match declined {
            Declined::OtherBody => Fault::invalid("its key was used for another body"),
            Declined::Fault(fault) => fault,
        })?;
        let (call_id, joined) = (kept.stored.call_id(), kept.joined);
        tracing::info!(job = job.number, call_id, request = kept.log.token(), joined, "request kept");
        Ok(())
    }

    /// Keeps a job that is no request, with the reason, for whoever looks.
    async fn buries(&self, job: &store::Job, fault: Fault) -> Result<u64, StoreError> {
        tracing::warn!(job = job.number, %fault, "a job cannot be read: it is kept as a dead letter");
        let number = format!("job-{}", job.number);
        let asking = Asking {
            principal: "",
            key: Key::Job(job.number),
            call_id: &number,
            trace: self.new_trace(),
            api: Api::UnknownApi,
            content_type: "",
            body: &job.bytes,
            time: self.setup.timeout,
            callback: None,
        };
        let Some(log) = Self::log_of("", asking.key) else { return Err(StoreError::Unknown) };
        let (_, [accepted]) = self.begun(asking);
        let given_up = Some(fault.message.clone());
        let ended = Logged::Ended { outcome: Err(fault), at: self.clock.now(), deaths: 0 };
        let record = [accepted, ended, Logged::Delivered { given_up }];
        self.count(Event::Dead);
        self.logs.finish(&log, 0, &record, self.setup.keep.max(DEAD_KEPT)).await
    }

    fn new_trace(&self) -> Trace {
        let [high, low, parent] = [(); 3].map(|()| self.draw());
        Trace::begun((u128::from(high) << 64) | u128::from(low), parent)
    }
}
