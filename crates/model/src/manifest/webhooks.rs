//! Webhooks of topics.

use super::{
    keys,
    read::{Field, Fields, Reader},
};
use crate::{
    VariableName,
    event::{Encoding, OwnSignature, Provider, Signature, Webhook, WebhookPath},
    grant::remedy_for_variable,
    route::RouteError,
};

impl Reader {
    /// The public route to a topic.
    pub(super) fn webhook(&mut self, field: Field<'_, '_>) -> Option<Webhook> {
        let fields = self.table(field, &keys::WEBHOOK)?;
        for doc in keys::WEBHOOK.keys.iter().filter(|doc| fields.get(doc.key).is_none()) {
            let message = format!("the webhook has no `{}`", doc.key);
            self.refuse(field.value.span, message, format!("write for example `{}`", doc.example));
        }
        let path = fields.get("path").and_then(|field| {
            let read = self.string(field)?.parse::<WebhookPath>();
            read.map_err(|RouteError { reason, remedy }| self.refuse(field.value.span, reason, remedy)).ok()
        });
        let secret = fields.get("secret").and_then(|field| {
            let text = self.string(field)?;
            let read = text.parse::<VariableName>();
            read.map_err(|error| {
                let message = format!("not the name of a secret: {error}");
                self.refuse(field.value.span, message, remedy_for_variable(text));
            })
            .ok()
        });
        let signature = fields.get("signature").and_then(|field| self.signature(field));
        Some(Webhook { path: path?, secret: secret?, signature: signature? })
    }

    /// The name of a form, or a header of its own.
    fn signature(&mut self, field: Field<'_, '_>) -> Option<Signature> {
        let Some(table) = field.value.as_table() else {
            let words = Provider::ALL.map(|provider| (provider.as_str(), provider));
            return self.word(field, &words).map(Signature::Of);
        };
        let fields = self.fields(table, &keys::SIGNATURE);
        let header = match fields.get("header") {
            Some(field) => self.string(field).map(str::to_ascii_lowercase),
            None => {
                let remedy = "name the one that has the signature, as `header = \"x-signature\"`";
                self.refuse(field.value.span, "the signature has no `header`", remedy);
                None
            }
        };
        let prefix = fields.get("prefix").and_then(|field| self.string(field)).unwrap_or_default();
        let encoding = self.encoding(fields).unwrap_or_default();
        let id_header = fields.get("id_header").and_then(|field| self.string(field)).map(str::to_ascii_lowercase);
        let own = OwnSignature { header: header?, prefix: prefix.to_owned(), encoding, id_header };
        if let Some(RouteError { reason, remedy }) = own.mistake() {
            self.refuse(field.value.span, reason, remedy);
            return None;
        }
        Some(Signature::Own(own))
    }

    fn encoding(&mut self, fields: Fields<'_, '_>) -> Option<Encoding> {
        let words = Encoding::ALL.map(|encoding| (encoding.as_str(), encoding));
        fields.get("encoding").and_then(|field| self.word(field, &words))
    }
}
