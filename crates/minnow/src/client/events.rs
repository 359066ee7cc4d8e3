//! The calls about topics, schedules and asynchronous invokes.

use minnow_control::api_types::{
    DeadCount, DeadLetterDetail, DeadLetters, DeadOf, DeadQuery, EventsSent, InvokeRequest, MessagesQuery,
    PublishQuery, ReplayRequest, RunInfo, RunStarted, ScheduleList, ScheduleRunQuery, TopicInfo, TopicList,
};
use minnow_model::{
    AppName, FunctionName, RequestId, ScheduleName,
    event::{MAX_ATTRIBUTES_BYTES, MAX_DATA_BYTES},
};
use reqwest::{Method, Response, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ApiError, Client, Lines, has_type};
use crate::store::StorePath;

/// The longest line with a message, in bytes: all its data in base64 and its attributes.
const MAX_MESSAGE_LINE: usize = MAX_DATA_BYTES / 3 * 4 + 2 * MAX_ATTRIBUTES_BYTES;

/// What is published, as it goes over HTTP.
#[derive(Debug, Default)]
pub struct Publish {
    pub content_type: String,
    /// The attributes, without `ce-`; none for a plain message. Their values are percent-encoded.
    pub attributes: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub delay_ms: Option<u64>,
}

/// A message of a topic, as far as a table or a line shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    pub id: String,
    pub r#type: String,
    #[serde(default)]
    pub time: String,
    #[serde(default)]
    pub sequence: String,
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(default)]
    pub partitionkey: Option<String>,
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
    #[serde(default)]
    pub data_base64: Option<String>,
}

impl Client {
    pub async fn topics(&self, app: &AppName) -> Result<TopicList, ApiError> {
        self.call(Method::GET, &["apps", app.as_str(), "topics"]).await
    }

    pub async fn topic(&self, topic: &StorePath) -> Result<TopicInfo, ApiError> {
        self.call(Method::GET, &["apps", topic.app.as_str(), "topics", topic.store.as_str()]).await
    }

    pub async fn topic_publish(&self, topic: &StorePath, publish: Publish) -> Result<EventsSent, ApiError> {
        let query = PublishQuery { app: Some(topic.app.clone()), delay_ms: publish.delay_ms };
        let mut request = self.request(Method::POST, &["topics", topic.store.as_str()])?.query(&query);
        request = request.header(CONTENT_TYPE, publish.content_type);
        for (name, value) in publish.attributes {
            request = request.header(format!("ce-{name}"), value);
        }
        self.read(self.send(request.timeout(self.call_timeout).body(publish.body)).await?).await
    }

    /// The messages of a topic, and with `query.follow` those to come.
    pub async fn topic_messages(&self, topic: &StorePath, query: &MessagesQuery) -> Result<Lines, ApiError> {
        let path = ["apps", topic.app.as_str(), "topics", topic.store.as_str(), "messages"];
        let response: Response = self.send(self.request(Method::GET, &path)?.query(query)).await?;
        if !has_type(&response, "application/x-ndjson") {
            return Err(ApiError::foreign(self.server.clone(), response.status(), response.headers()));
        }
        Ok(Lines::new(self.server.clone(), response, MAX_MESSAGE_LINE))
    }

    pub async fn topic_replay(&self, topic: &StorePath, replay: &ReplayRequest) -> Result<(), ApiError> {
        let path = ["apps", topic.app.as_str(), "topics", topic.store.as_str(), "replay"];
        self.done(self.request(Method::POST, &path)?.json(replay)).await
    }

    pub async fn dead_letters(&self, topic: &StorePath, query: &DeadQuery) -> Result<DeadLetters, ApiError> {
        let request = self.on_dead(Method::GET, topic, &[])?.query(query);
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }

    pub async fn dead_letter(&self, topic: &StorePath, number: u64) -> Result<DeadLetterDetail, ApiError> {
        let request = self.on_dead(Method::GET, topic, &[&number.to_string()])?;
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }

    pub async fn dead_retry(&self, topic: &StorePath, number: u64) -> Result<DeadCount, ApiError> {
        let request = self.on_dead(Method::POST, topic, &[&number.to_string(), "retry"])?;
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }

    pub async fn dead_retry_all(&self, topic: &StorePath, function: FunctionName) -> Result<DeadCount, ApiError> {
        let request = self.on_dead(Method::POST, topic, &["retry"])?.json(&DeadOf { function });
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }

    pub async fn dead_drop(&self, topic: &StorePath, number: u64) -> Result<DeadCount, ApiError> {
        let request = self.on_dead(Method::DELETE, topic, &[&number.to_string()])?;
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }

    pub async fn dead_drop_all(&self, topic: &StorePath, function: FunctionName) -> Result<DeadCount, ApiError> {
        let request = self.on_dead(Method::DELETE, topic, &[])?.query(&DeadOf { function });
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }

    pub async fn schedules(&self, app: &AppName) -> Result<ScheduleList, ApiError> {
        self.call(Method::GET, &["apps", app.as_str(), "schedules"]).await
    }

    pub async fn schedule_run(
        &self,
        app: &AppName,
        schedule: &ScheduleName,
        function: Option<FunctionName>,
    ) -> Result<RunStarted, ApiError> {
        let request = self.request(Method::POST, &["apps", app.as_str(), "schedules", schedule.as_str(), "run"])?;
        self.read(self.send(request.timeout(self.call_timeout).query(&ScheduleRunQuery { function })).await?).await
    }

    pub async fn invoke_async(
        &self,
        app: &AppName,
        function: &FunctionName,
        invoke: &InvokeRequest,
    ) -> Result<RunStarted, ApiError> {
        let path = ["apps", app.as_str(), "functions", function.as_str(), "invoke-async"];
        self.read(self.send(self.request(Method::POST, &path)?.timeout(self.call_timeout).json(invoke)).await?).await
    }

    pub async fn async_run(&self, app: &AppName, id: RequestId) -> Result<RunInfo, ApiError> {
        self.call(Method::GET, &["apps", app.as_str(), "runs", &id.to_string()]).await
    }

    fn on_dead(&self, method: Method, topic: &StorePath, what: &[&str]) -> Result<reqwest::RequestBuilder, ApiError> {
        let mut path = vec!["apps", topic.app.as_str(), "topics", topic.store.as_str(), "dead"];
        path.extend(what);
        self.request(method, &path)
    }
}
