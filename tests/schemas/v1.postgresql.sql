COMMENT ON SCHEMA public IS '';
CREATE FUNCTION public.audit_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$;
CREATE TABLE public.audit (
    number bigint NOT NULL,
    "time" double precision NOT NULL,
    item character varying(32) NOT NULL,
    who text NOT NULL,
    action character varying(32) NOT NULL,
    why text NOT NULL,
    hash character varying(64) NOT NULL
);
CREATE TABLE public.journal (
    number bigint NOT NULL,
    id character varying(32) NOT NULL,
    queue_id text NOT NULL,
    received double precision NOT NULL,
    door text NOT NULL,
    client_ip text NOT NULL,
    helo text NOT NULL,
    sender text NOT NULL,
    recipients text NOT NULL,
    subject text NOT NULL,
    message_id text NOT NULL,
    size bigint NOT NULL,
    action character varying(16) NOT NULL,
    score double precision NOT NULL,
    reason text NOT NULL,
    seconds double precision NOT NULL,
    session text NOT NULL,
    envelope text NOT NULL,
    evidence text NOT NULL,
    signals text NOT NULL,
    verdict text NOT NULL,
    reply text NOT NULL
);
CREATE SEQUENCE public.journal_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.journal_number_seq OWNED BY public.journal.number;
CREATE TABLE public.quarantine (
    id character varying(32) NOT NULL,
    queue_id text NOT NULL,
    received double precision NOT NULL,
    held_at double precision NOT NULL,
    client_ip text NOT NULL,
    helo text NOT NULL,
    sender text NOT NULL,
    subject text NOT NULL,
    message_id text NOT NULL,
    size bigint NOT NULL,
    sha256 character varying(64) NOT NULL,
    score double precision NOT NULL,
    reason text NOT NULL,
    state character varying(16) NOT NULL,
    changed double precision NOT NULL
);
CREATE TABLE public.quarantine_bytes (
    item character varying(32) NOT NULL,
    data bytea NOT NULL
);
CREATE TABLE public.quarantine_envelopes (
    item character varying(32) NOT NULL,
    session text NOT NULL,
    envelope text NOT NULL,
    held text NOT NULL
);
CREATE TABLE public.quarantine_judgements (
    item character varying(32) NOT NULL,
    number integer NOT NULL,
    "time" double precision NOT NULL,
    evidence text NOT NULL,
    signals text NOT NULL,
    verdict text NOT NULL
);
CREATE TABLE public.quarantine_reasons (
    item character varying(32) NOT NULL,
    name character varying(128) NOT NULL
);
CREATE TABLE public.quarantine_recipients (
    item character varying(32) NOT NULL,
    "position" integer NOT NULL,
    address text NOT NULL,
    state character varying(16) NOT NULL,
    lease character varying(32) NOT NULL,
    lease_until double precision NOT NULL,
    changed double precision NOT NULL,
    delivered_to text NOT NULL,
    note text NOT NULL
);
CREATE TABLE public.release_tokens (
    nonce character varying(32) NOT NULL,
    item character varying(32) NOT NULL,
    recipients text NOT NULL,
    expires double precision NOT NULL
);
CREATE TABLE public.schema_version (
    version integer NOT NULL,
    applied double precision NOT NULL
);
CREATE TABLE public.secrets (
    name character varying(32) NOT NULL,
    value bytea NOT NULL
);
ALTER TABLE ONLY public.journal ALTER COLUMN number SET DEFAULT nextval('public.journal_number_seq'::regclass);
INSERT INTO public.audit VALUES (1, 1795337796.2477698, '1KTK3PV1R0000000', 'mailwarden', 'held', 'CLASSIFIER, score', '48a25c813ef3cb46098c76091f784aa37b613afd740fec50260515cd34b007c0');
INSERT INTO public.audit VALUES (2, 1795337796.2764528, '1KTK3PV1R0000001', 'mailwarden', 'held', 'CLASSIFIER, score', 'c61469fb41f962b0f1dfd6b0f12df1384c1383204bdf7d16d39394fbc88d74a9');
INSERT INTO public.audit VALUES (3, 1795337796.2885706, '1KTK3PV1R0000002', 'mailwarden', 'held', 'CLASSIFIER, score', '041f3a5d18e0ad22d7dd57e7adecba6d3d4f0e85dd3ff27888ded8c86dd16c9c');
INSERT INTO public.audit VALUES (4, 1795337796.3021102, '1KTK3PV1R0000001', 'cli:eve', 'claimed', 'bob@example.com', '4b700e4696fdab4e21551c49a44f55a707f570cedfc5c8df90eb4c5763346bb5');
INSERT INTO public.audit VALUES (5, 1795337796.3227112, '1KTK3PV1R0000001', 'cli:eve', 'released', 'bob@example.com: bob@example.com', '2abce30309ee5abfb3dfa2ceb6231122a81a7a342b54a0c70c0a1b9c38b67719');
INSERT INTO public.audit VALUES (6, 1795337796.3418448, '1KTK3PV1R0000002', 'cli:eve', 'deleted', '', '7bf7caaffa2a96b172f25f8c2ecf7696bacd2c9d21451e0f5ad1d4794692d2fc');
INSERT INTO public.journal VALUES (1, '1KTK3PV1R0000000', '4XYZabc', 1767607200, 'milter', '203.0.113.5', 'mx.example.net', 'alice@example.net', 'bob@example.com
carol@example.com', 'A chance', '<1@example.net>', 113, 'quarantine', 9.5, 'score', 0.1, '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}', '{"code":250,"enhanced":"2.0.0","text":"Ok"}');
INSERT INTO public.journal VALUES (2, '1KTK3PV1R0000001', '4XYZabc', 1767607201, 'milter', '203.0.113.5', 'mx.example.net', 'alice@example.net', 'bob@example.com
carol@example.com', 'A chance', '<1@example.net>', 113, 'quarantine', 9.5, 'score', 0.1, '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}', '{"code":250,"enhanced":"2.0.0","text":"Ok"}');
INSERT INTO public.journal VALUES (3, '1KTK3PV1R0000002', '4XYZabc', 1767607202, 'milter', '203.0.113.5', 'mx.example.net', 'alice@example.net', 'bob@example.com
carol@example.com', 'A chance', '<1@example.net>', 113, 'quarantine', 9.5, 'score', 0.1, '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000002","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}', '{"code":250,"enhanced":"2.0.0","text":"Ok"}');
INSERT INTO public.quarantine VALUES ('1KTK3PV1R0000000', '4XYZabc', 1767607200, 1795337796.230113, '203.0.113.5', 'mx.example.net', 'alice@example.net', 'A chance', '<1@example.net>', 113, 'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda', 9.5, 'score', 'held', 1795337796.230113);
INSERT INTO public.quarantine VALUES ('1KTK3PV1R0000001', '4XYZabc', 1767607201, 1795337796.273988, '203.0.113.5', 'mx.example.net', 'alice@example.net', 'A chance', '<1@example.net>', 113, 'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda', 9.5, 'score', 'held', 1795337796.3182983);
INSERT INTO public.quarantine VALUES ('1KTK3PV1R0000002', '4XYZabc', 1767607202, 1795337796.2864704, '', '', 'alice@example.net', '', '', 113, 'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda', 9.5, 'score', 'deleted', 1795337796.3312912);
INSERT INTO public.quarantine_bytes VALUES ('1KTK3PV1R0000000', '\x7801732bcacfb55270ccc94c4e55b04904510ea91589b90539a97a79a92576bc5c21f9560a49f94970d1e4fc5c5eaee0d2a4acd4e412a04685e48cc4bce4545e2edfd4e2e2c4f4545d4f172b051b43b8728821bc5c1ea93939f90a2f79b90063622488');
INSERT INTO public.quarantine_bytes VALUES ('1KTK3PV1R0000001', '\x7801732bcacfb55270ccc94c4e55b04904510ea91589b90539a97a79a92576bc5c21f9560a49f94970d1e4fc5c5eaee0d2a4acd4e412a04685e48cc4bce4545e2edfd4e2e2c4f4545d4f172b051b43b8728821bc5c1ea93939f90a2f79b90063622488');
INSERT INTO public.quarantine_envelopes VALUES ('1KTK3PV1R0000000', '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '["bob@example.com","carol@example.com"]');
INSERT INTO public.quarantine_envelopes VALUES ('1KTK3PV1R0000001', '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '["bob@example.com","carol@example.com"]');
INSERT INTO public.quarantine_judgements VALUES ('1KTK3PV1R0000000', 0, 1795337796.230113, '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}');
INSERT INTO public.quarantine_judgements VALUES ('1KTK3PV1R0000001', 0, 1795337796.273988, '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000000', 'CLASSIFIER');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000000', 'score');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000001', 'CLASSIFIER');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000001', 'score');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000002', 'CLASSIFIER');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000002', 'score');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000000', 0, 'bob@example.com', 'held', '', 0, 1795337796.230113, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000000', 1, 'carol@example.com', 'held', '', 0, 1795337796.230113, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000001', 1, 'carol@example.com', 'held', '', 0, 1795337796.273988, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000001', 0, 'bob@example.com', 'released', '', 0, 1795337796.3182983, 'bob@example.com', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000002', 0, 'bob@example.com', 'deleted', '', 0, 1795337796.3312912, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000002', 1, 'carol@example.com', 'deleted', '', 0, 1795337796.3312912, '', '');
INSERT INTO public.release_tokens VALUES ('613e3dece4b14c67dc042adca8a11870', '1KTK3PV1R0000001', '["bob@example.com"]', 1795359396.3083215);
INSERT INTO public.schema_version VALUES (1, 1795337796.2222896);
INSERT INTO public.secrets VALUES ('release', '\x7ae40264b6a2e379e10fa3f371221a5022e71311f4f84fdc8e5c7be1e15f9810');
INSERT INTO public.secrets VALUES ('audit-head', '\x362037626637636161666661326139366231373266323566386332656366373639366261636432633964323134353165306635616431643437393436393264326663');
SELECT pg_catalog.setval('public.journal_number_seq', 3, true);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.journal
    ADD CONSTRAINT journal_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.quarantine_bytes
    ADD CONSTRAINT quarantine_bytes_pkey PRIMARY KEY (item);
ALTER TABLE ONLY public.quarantine_envelopes
    ADD CONSTRAINT quarantine_envelopes_pkey PRIMARY KEY (item);
ALTER TABLE ONLY public.quarantine_judgements
    ADD CONSTRAINT quarantine_judgements_pkey PRIMARY KEY (item, number);
ALTER TABLE ONLY public.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.quarantine_reasons
    ADD CONSTRAINT quarantine_reasons_pkey PRIMARY KEY (item, name);
ALTER TABLE ONLY public.quarantine_recipients
    ADD CONSTRAINT quarantine_recipients_pkey PRIMARY KEY (item, "position");
ALTER TABLE ONLY public.release_tokens
    ADD CONSTRAINT release_tokens_pkey PRIMARY KEY (nonce);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.secrets
    ADD CONSTRAINT secrets_pkey PRIMARY KEY (name);
CREATE INDEX audit_item ON public.audit USING btree (item);
CREATE INDEX journal_id ON public.journal USING btree (id);
CREATE INDEX journal_received ON public.journal USING btree (received);
CREATE INDEX quarantine_held_at ON public.quarantine USING btree (held_at);
CREATE INDEX quarantine_reasons_name ON public.quarantine_reasons USING btree (name, item);
CREATE INDEX quarantine_state ON public.quarantine USING btree (state, id);
CREATE INDEX release_tokens_item ON public.release_tokens USING btree (item);
CREATE TRIGGER audit_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit FOR EACH STATEMENT EXECUTE FUNCTION public.audit_append_only();
