//! Requests of this process' own: somebody here asks, and is answered from the log, whatever died meanwhile.

use super::accepting::{Asking, Declined, Key};
use super::keeper::Keeper;
use super::stored::Api;
use super::telling::Ended;
use crate::Intake;
use stageline_base::{Fault, Trace};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The id that stays the same over attempts: who asks again by it joins, and nothing is computed twice.
    pub call_id: &'a str,
    /// A Content-Type and a body, as they would come over HTTP.
    pub body: (&'a str, &'a [u8]),
    /// How long it may take.
    pub time: Duration,
}

impl Keeper {
    /// The status, the Content-Type and the body that answer a question to the model that `intake` knows.
    ///
    /// # Errors
    /// What refuses it, or `DeadlineExceeded`: it goes on, and may be asked for again.
    pub async fn ask(
        self: &Arc<Self>,
        intake: &dyn Intake,
        question: Question<'_>,
    ) -> Result<(u16, &'static str, String), Fault> {
        let Question { call_id, body: (content_type, body), time } = question;
        // What cannot be read would be read for ever.
        self.setup.forms.read(Api::Http, content_type, body, intake.task())?;
        let asking = Asking {
            principal: "",
            key: Key::Idempotency(call_id),
            call_id,
            trace: Trace::begun(u128::from(self.draw()) << 64 | u128::from(self.draw()), self.draw()),
            api: Api::Http,
            content_type,
            body,
            time: time.min(self.setup.timeout),
            callback: None,
        };
        let kept = self.accept(asking).await.map_err(|declined| match declined {
            Declined::OtherBody => Fault::invalid("this id was used for another body"),
            Declined::Fault(fault) => fault,
        })?;
        let until = Instant::now() + time;
        let mut answer = self.answer(intake, (&kept.log, &kept.stored, 0), until).await?;
        let mut events = Vec::new();
        while let Some(event) = answer.events.recv().await {
            if let crate::AnswerEvent::Failed(fault) = event {
                return Err(fault);
            }
            events.push(event);
        }
        let (call_id, prompt_tokens) = (call_id.to_owned(), answer.prompt_tokens);
        Ok(self.setup.forms.write(Api::Http, Ended { call_id, prompt_tokens, answer: Ok(events) }))
    }
}
