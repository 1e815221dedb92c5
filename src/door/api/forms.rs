//! What is kept of a durable request, read as the API that it came by reads it, and its answer as that API writes it.

use super::{grpc, native};
use crate::Request;
use crate::durable::{Api, Ended, Forms, Job};
use crate::http::refusal::Refusal;
use axum::body::Bytes;
use stageline_base::{Fault, Task};

/// See the module.
pub struct AllForms;

impl Forms for AllForms {
    fn read(&self, api: Api, content_type: &str, body: &[u8], task: Task) -> Result<Request, Fault> {
        match api {
            Api::Http => native::stored(content_type, body, task),
            Api::Generate if !task.generates() => Err(Fault::invalid("this pipeline does not generate")),
            Api::Embed if task.generates() => Err(Fault::invalid("this pipeline does not embed")),
            Api::Generate | Api::Embed => grpc::stored(api, body),
            Api::UnknownApi => Err(Fault::internal("a stored request came by no API that this version knows")),
        }
    }

    fn job(&self, job: &Bytes) -> Result<Job, Fault> {
        native::job(job)
    }

    fn write(&self, _: Api, ended: Ended) -> (u16, &'static str, String) {
        let Ended { call_id, prompt_tokens, answer } = ended;
        match answer {
            Ok(events) => (200, "application/json", native::in_one(events, prompt_tokens, call_id)),
            Err(fault) => {
                let refusal = Refusal::from(fault).of_call(call_id);
                (refusal.status().as_u16(), "application/json", refusal.body())
            }
        }
    }
}
