COMMENT ON SCHEMA public IS '';
CREATE FUNCTION public.audit_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.audit (
    number bigint NOT NULL,
    "time" double precision NOT NULL,
    item character varying(32) NOT NULL,
    who text NOT NULL,
    action character varying(32) NOT NULL,
    why text NOT NULL,
    hash character varying(64) NOT NULL
);
CREATE TABLE public.digests (
    address character varying(320) NOT NULL,
    slot double precision NOT NULL,
    lease_until double precision NOT NULL,
    covered character varying(32) NOT NULL,
    sent double precision NOT NULL
);
CREATE TABLE public.dmarc_observations (
    day integer NOT NULL,
    domain character varying(255) NOT NULL,
    hash character varying(64) NOT NULL,
    data text NOT NULL,
    count bigint NOT NULL
);
CREATE TABLE public.dmarc_policies (
    day integer NOT NULL,
    domain character varying(255) NOT NULL,
    record text NOT NULL
);
CREATE TABLE public.dmarc_reports (
    day integer NOT NULL,
    domain character varying(255) NOT NULL,
    destination character varying(320) NOT NULL,
    state character varying(16) NOT NULL,
    changed double precision NOT NULL,
    note text NOT NULL
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
    reply text NOT NULL,
    shaded text DEFAULT ''::text NOT NULL
);
CREATE SEQUENCE public.journal_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.journal_number_seq OWNED BY public.journal.number;
CREATE TABLE public.logins (
    hash character varying(64) NOT NULL,
    person character varying(254) NOT NULL,
    kind character varying(16) NOT NULL,
    note text NOT NULL,
    made double precision NOT NULL,
    used double precision NOT NULL,
    expires double precision NOT NULL
);
CREATE TABLE public.mta_sts (
    domain character varying(255) NOT NULL,
    ident character varying(32) NOT NULL,
    policy text NOT NULL,
    fetched double precision NOT NULL,
    expires double precision NOT NULL,
    used double precision NOT NULL
);
CREATE TABLE public.people (
    name character varying(254) NOT NULL,
    role character varying(16) NOT NULL,
    addresses text NOT NULL,
    domains text NOT NULL,
    password text NOT NULL,
    changed double precision NOT NULL
);
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
    changed double precision NOT NULL,
    content integer DEFAULT 1 NOT NULL,
    judged_by text DEFAULT ''::text NOT NULL
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
CREATE TABLE public.quarantine_filters (
    name character varying(64) NOT NULL,
    who text NOT NULL,
    changed double precision NOT NULL,
    options text NOT NULL
);
CREATE TABLE public.quarantine_judgements (
    item character varying(32) NOT NULL,
    number integer NOT NULL,
    "time" double precision NOT NULL,
    evidence text NOT NULL,
    signals text NOT NULL,
    verdict text NOT NULL
);
CREATE TABLE public.quarantine_orders (
    item character varying(32) NOT NULL,
    "position" integer NOT NULL,
    batch character varying(32) NOT NULL,
    due double precision NOT NULL,
    who text NOT NULL,
    send_to text NOT NULL,
    wrapped integer NOT NULL,
    aloud integer NOT NULL,
    was character varying(16) NOT NULL
);
CREATE TABLE public.quarantine_reasons (
    item character varying(32) NOT NULL,
    name character varying(128) NOT NULL,
    answered double precision DEFAULT '0'::double precision NOT NULL,
    answered_by text DEFAULT ''::text NOT NULL,
    answer text DEFAULT ''::text NOT NULL
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
CREATE TABLE public.quarantine_reach (
    key character varying(330) NOT NULL,
    item character varying(32) NOT NULL
);
CREATE TABLE public.quarantine_words (
    item character varying(32) NOT NULL,
    held_at double precision NOT NULL,
    score double precision NOT NULL,
    size bigint NOT NULL,
    sender text NOT NULL,
    people text NOT NULL,
    subject text NOT NULL,
    state character varying(16) DEFAULT 'held'::character varying NOT NULL
);
CREATE TABLE public.queue_bytes (
    item character varying(32) NOT NULL,
    data bytea NOT NULL
);
CREATE TABLE public.queue_messages (
    id character varying(32) NOT NULL,
    created double precision NOT NULL,
    expires double precision NOT NULL,
    sender text NOT NULL,
    options text NOT NULL,
    may_bounce integer NOT NULL,
    warned double precision NOT NULL,
    size bigint NOT NULL
);
CREATE TABLE public.queue_owners (
    owner character varying(32) NOT NULL,
    process text NOT NULL,
    expires double precision NOT NULL
);
CREATE TABLE public.queue_recipients (
    number bigint NOT NULL,
    item character varying(32) NOT NULL,
    address text NOT NULL,
    options text NOT NULL,
    hop text NOT NULL,
    state character varying(16) NOT NULL,
    next_attempt double precision NOT NULL,
    attempts integer NOT NULL,
    deaths integer NOT NULL,
    lease character varying(32) NOT NULL,
    changed double precision NOT NULL,
    reply text NOT NULL
);
CREATE SEQUENCE public.queue_recipients_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.queue_recipients_number_seq OWNED BY public.queue_recipients.number;
CREATE TABLE public.release_tokens (
    nonce character varying(32) NOT NULL,
    item character varying(32) NOT NULL,
    recipients text NOT NULL,
    expires double precision NOT NULL,
    sha256 character varying(64) DEFAULT ''::character varying NOT NULL,
    size bigint DEFAULT '0'::bigint NOT NULL
);
CREATE TABLE public.samples (
    number bigint NOT NULL,
    digest character varying(64) NOT NULL,
    near0 bigint NOT NULL,
    near1 bigint NOT NULL,
    near2 bigint NOT NULL,
    near3 bigint NOT NULL,
    minima bytea NOT NULL,
    spam integer NOT NULL,
    origin character varying(16) NOT NULL,
    source text NOT NULL,
    "time" double precision NOT NULL,
    state character varying(16) NOT NULL,
    features bytea NOT NULL,
    body bytea NOT NULL,
    owner text DEFAULT ''::text NOT NULL
);
CREATE SEQUENCE public.samples_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.samples_number_seq OWNED BY public.samples.number;
CREATE TABLE public.schema_version (
    version integer NOT NULL,
    applied double precision NOT NULL
);
CREATE TABLE public.secrets (
    name character varying(32) NOT NULL,
    value bytea NOT NULL
);
CREATE TABLE public.senders (
    pattern character varying(320) NOT NULL,
    rule character varying(16) NOT NULL,
    who text NOT NULL,
    changed double precision NOT NULL,
    why text NOT NULL
);
CREATE TABLE public.spent_tokens (
    mac character varying(64) NOT NULL,
    item character varying(32) NOT NULL,
    used double precision NOT NULL,
    expires double precision NOT NULL
);
CREATE TABLE public.tls_hosts (
    host character varying(255) NOT NULL,
    security character varying(16) NOT NULL,
    seen double precision NOT NULL
);
CREATE TABLE public.tls_reports (
    day integer NOT NULL,
    domain character varying(255) NOT NULL,
    destination character varying(1024) NOT NULL,
    state character varying(16) NOT NULL,
    changed double precision NOT NULL,
    note text NOT NULL
);
CREATE TABLE public.tls_results (
    day integer NOT NULL,
    domain character varying(255) NOT NULL,
    hash character varying(64) NOT NULL,
    data text NOT NULL,
    count bigint NOT NULL
);
ALTER TABLE ONLY public.journal ALTER COLUMN number SET DEFAULT nextval('public.journal_number_seq'::regclass);
ALTER TABLE ONLY public.queue_recipients ALTER COLUMN number SET DEFAULT nextval('public.queue_recipients_number_seq'::regclass);
ALTER TABLE ONLY public.samples ALTER COLUMN number SET DEFAULT nextval('public.samples_number_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0011');
INSERT INTO public.audit VALUES (1, 1795340040.7573578, '1KTK3PV1R0000000', 'mailwarden', 'held', 'CLASSIFIER, score', 'b7dd1f9648efe5cf05b54420e90da0936b44fe0d1995493362f0490b826020f8');
INSERT INTO public.audit VALUES (2, 1795340040.8696396, '1KTK3PV1R0000001', 'mailwarden', 'held', 'CLASSIFIER, score', 'dfb827e34acf0c8cd2164f9bdace987ad05bb17eaa2a0841a0c91b1c06796647');
INSERT INTO public.audit VALUES (3, 1795340040.8984246, '1KTK3PV1R0000002', 'mailwarden', 'held', 'CLASSIFIER, score', 'c00cc07db4011bcb070cb11ee781065d0104a5d66af7f03142964810c3acede4');
INSERT INTO public.audit VALUES (4, 1795340040.986045, '1KTK3PV1R0000001', 'cli:eve', 'claimed', 'bob@example.com', '8b4b0d49b5aa7f7efc0e4ac3870abc06a38f075aeb9f5a89b8c1d57103a13120');
INSERT INTO public.audit VALUES (5, 1795340041.0855405, '1KTK3PV1R0000001', 'cli:eve', 'released', 'bob@example.com: bob@example.com', '036d10c2b6a02ee50583a225c97ea58f6931af44dbefd629ad0b6953be7096c4');
INSERT INTO public.audit VALUES (6, 1795340041.1679022, '1KTK3PV1R0000002', 'cli:eve', 'deleted', '', 'de43f3970d2409c0802ab4907bfb3497c96d3120f932853ec15c9b9a13352942');
INSERT INTO public.journal VALUES (1, '1KTK3PV1R0000000', '4XYZabc', 1767607200, 'milter', '203.0.113.5', 'mx.example.net', 'alice@example.net', 'bob@example.com
carol@example.com', 'A chance', '<1@example.net>', 113, 'quarantine', 9.5, 'score', 0.1, '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}', '{"code":250,"enhanced":"2.0.0","text":"Ok"}', '');
INSERT INTO public.journal VALUES (2, '1KTK3PV1R0000001', '4XYZabc', 1767607201, 'milter', '203.0.113.5', 'mx.example.net', 'alice@example.net', 'bob@example.com
carol@example.com', 'A chance', '<1@example.net>', 113, 'quarantine', 9.5, 'score', 0.1, '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}', '{"code":250,"enhanced":"2.0.0","text":"Ok"}', '');
INSERT INTO public.journal VALUES (3, '1KTK3PV1R0000002', '4XYZabc', 1767607202, 'milter', '203.0.113.5', 'mx.example.net', 'alice@example.net', 'bob@example.com
carol@example.com', 'A chance', '<1@example.net>', 113, 'quarantine', 9.5, 'score', 0.1, '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000002","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}', '{"code":250,"enhanced":"2.0.0","text":"Ok"}', '');
INSERT INTO public.quarantine VALUES ('1KTK3PV1R0000000', '4XYZabc', 1767607200, 1795340040.710032, '203.0.113.5', 'mx.example.net', 'alice@example.net', 'A chance', '<1@example.net>', 113, 'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda', 9.5, 'score', 'held', 1795340040.710032, 1, 'abc123 base-1 ');
INSERT INTO public.quarantine VALUES ('1KTK3PV1R0000001', '4XYZabc', 1767607201, 1795340040.8543913, '203.0.113.5', 'mx.example.net', 'alice@example.net', 'A chance', '<1@example.net>', 113, 'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda', 9.5, 'score', 'held', 1795340041.0349584, 1, 'abc123 base-1 ');
INSERT INTO public.quarantine VALUES ('1KTK3PV1R0000002', '4XYZabc', 1767607202, 1795340040.887286, '', '', 'alice@example.net', '', '', 113, 'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda', 9.5, 'score', 'deleted', 1795340041.1059232, 0, 'abc123 base-1 ');
INSERT INTO public.quarantine_bytes VALUES ('1KTK3PV1R0000000', '\x7801732bcacfb55270ccc94c4e55b04904510ea91589b90539a97a79a92576bc5c21f9560a49f94970d1e4fc5c5eaee0d2a4acd4e412a04685e48cc4bce4545e2edfd4e2e2c4f4545d4f172b051b43b8728821bc5c1ea93939f90a2f79b90063622488');
INSERT INTO public.quarantine_bytes VALUES ('1KTK3PV1R0000001', '\x7801732bcacfb55270ccc94c4e55b04904510ea91589b90539a97a79a92576bc5c21f9560a49f94970d1e4fc5c5eaee0d2a4acd4e412a04685e48cc4bce4545e2edfd4e2e2c4f4545d4f172b051b43b8728821bc5c1ea93939f90a2f79b90063622488');
INSERT INTO public.quarantine_envelopes VALUES ('1KTK3PV1R0000000', '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '["bob@example.com","carol@example.com"]');
INSERT INTO public.quarantine_envelopes VALUES ('1KTK3PV1R0000001', '{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}', '{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}', '["bob@example.com","carol@example.com"]');
INSERT INTO public.quarantine_judgements VALUES ('1KTK3PV1R0000000', 0, 1795340040.710032, '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}');
INSERT INTO public.quarantine_judgements VALUES ('1KTK3PV1R0000001', 0, 1795340040.8543913, '{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":"","stale":false},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"lists":[],"release":null,"unpacked":null,"queries":0,"senders":[],"durations":{}}', '[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]', '{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"},"cuts":[]}');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000000', 'CLASSIFIER', 0, '', '');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000000', 'score', 0, '', '');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000001', 'CLASSIFIER', 0, '', '');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000001', 'score', 0, '', '');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000002', 'CLASSIFIER', 0, '', '');
INSERT INTO public.quarantine_reasons VALUES ('1KTK3PV1R0000002', 'score', 0, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000000', 0, 'bob@example.com', 'held', '', 0, 1795340040.710032, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000000', 1, 'carol@example.com', 'held', '', 0, 1795340040.710032, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000001', 1, 'carol@example.com', 'held', '', 0, 1795340040.8543913, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000001', 0, 'bob@example.com', 'released', '', 0, 1795340041.0349584, 'bob@example.com', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000002', 0, 'bob@example.com', 'deleted', '', 0, 1795340041.1059232, '', '');
INSERT INTO public.quarantine_recipients VALUES ('1KTK3PV1R0000002', 1, 'carol@example.com', 'deleted', '', 0, 1795340041.1059232, '', '');
INSERT INTO public.quarantine_reach VALUES ('.com', '1KTK3PV1R0000000');
INSERT INTO public.quarantine_reach VALUES ('.com', '1KTK3PV1R0000001');
INSERT INTO public.quarantine_reach VALUES ('.com', '1KTK3PV1R0000002');
INSERT INTO public.quarantine_reach VALUES ('=bob@example.com', '1KTK3PV1R0000000');
INSERT INTO public.quarantine_reach VALUES ('=bob@example.com', '1KTK3PV1R0000001');
INSERT INTO public.quarantine_reach VALUES ('=bob@example.com', '1KTK3PV1R0000002');
INSERT INTO public.quarantine_reach VALUES ('=carol@example.com', '1KTK3PV1R0000000');
INSERT INTO public.quarantine_reach VALUES ('=carol@example.com', '1KTK3PV1R0000001');
INSERT INTO public.quarantine_reach VALUES ('=carol@example.com', '1KTK3PV1R0000002');
INSERT INTO public.quarantine_reach VALUES ('@example.com', '1KTK3PV1R0000000');
INSERT INTO public.quarantine_reach VALUES ('@example.com', '1KTK3PV1R0000001');
INSERT INTO public.quarantine_reach VALUES ('@example.com', '1KTK3PV1R0000002');
INSERT INTO public.quarantine_words VALUES ('1KTK3PV1R0000000', 1795340040.710032, 9.5, 113, 'alice@example.net', 'bob@example.com
carol@example.com', 'a chance', 'held');
INSERT INTO public.quarantine_words VALUES ('1KTK3PV1R0000001', 1795340040.8543913, 9.5, 113, 'alice@example.net', 'bob@example.com
carol@example.com', 'a chance', 'held');
INSERT INTO public.quarantine_words VALUES ('1KTK3PV1R0000002', 1795340040.887286, 9.5, 113, 'alice@example.net', 'bob@example.com
carol@example.com', '', 'deleted');
INSERT INTO public.queue_bytes VALUES ('1KTK3PV1R0000009', '\x7801732bcacfb55270ccc94c4e55b04904510ea91589b90539a97a79a92576bc5c21f9560a49f94970d1e4fc5c5eaee0d2a4acd4e412a04685e48cc4bce4545e2edfd4e2e2c4f4545d4f172b051b43b8728821bc5c1ea93939f90a2f79b90063622488');
INSERT INTO public.queue_messages VALUES ('1KTK3PV1R0000009', 1767607200, 1768039200, 'a@example.net', '[]', 0, 0, 113);
INSERT INTO public.queue_recipients VALUES (1, '1KTK3PV1R0000009', 'bob@example.com', '[]', 'smtp:mail.example.com:25', 'queued', 1767607200, 0, 0, '', 1767607200, '');
INSERT INTO public.release_tokens VALUES ('682e3d0ac3149bf577d1804d12b76c1c', '1KTK3PV1R0000001', '["bob@example.com"]', 1795361641.0100477, 'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda', 113);
INSERT INTO public.samples VALUES (1, 'abababababababababababababababababababababababababababababababab', 1, 2, 3, 4, '\x00000000000000000000000000000000', 1, 'operator', 'cli:eve', 1767607200, 'learned', '\x78', '\x', '');
INSERT INTO public.schema_version VALUES (9, 1795340040.6967196);
INSERT INTO public.secrets VALUES ('release', '\xf3164d3919a4da02e735e988bf16419a6097bf4a7617cec37f286422f595c460');
INSERT INTO public.secrets VALUES ('audit-head', '\x362064653433663339373064323430396330383032616234393037626662333439376339366433313230663933323835336563313563396239613133333532393432');
SELECT pg_catalog.setval('public.journal_number_seq', 3, true);
SELECT pg_catalog.setval('public.queue_recipients_number_seq', 1, true);
SELECT pg_catalog.setval('public.samples_number_seq', 1, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkey PRIMARY KEY (version_num);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.digests
    ADD CONSTRAINT digests_pkey PRIMARY KEY (address);
ALTER TABLE ONLY public.dmarc_observations
    ADD CONSTRAINT dmarc_observations_pkey PRIMARY KEY (day, domain, hash);
ALTER TABLE ONLY public.dmarc_policies
    ADD CONSTRAINT dmarc_policies_pkey PRIMARY KEY (day, domain);
ALTER TABLE ONLY public.dmarc_reports
    ADD CONSTRAINT dmarc_reports_pkey PRIMARY KEY (day, domain, destination);
ALTER TABLE ONLY public.journal
    ADD CONSTRAINT journal_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.logins
    ADD CONSTRAINT logins_pkey PRIMARY KEY (hash);
ALTER TABLE ONLY public.mta_sts
    ADD CONSTRAINT mta_sts_pkey PRIMARY KEY (domain);
ALTER TABLE ONLY public.people
    ADD CONSTRAINT people_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.quarantine_bytes
    ADD CONSTRAINT quarantine_bytes_pkey PRIMARY KEY (item);
ALTER TABLE ONLY public.quarantine_envelopes
    ADD CONSTRAINT quarantine_envelopes_pkey PRIMARY KEY (item);
ALTER TABLE ONLY public.quarantine_filters
    ADD CONSTRAINT quarantine_filters_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.quarantine_judgements
    ADD CONSTRAINT quarantine_judgements_pkey PRIMARY KEY (item, number);
ALTER TABLE ONLY public.quarantine_orders
    ADD CONSTRAINT quarantine_orders_pkey PRIMARY KEY (item, "position");
ALTER TABLE ONLY public.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.quarantine_reasons
    ADD CONSTRAINT quarantine_reasons_pkey PRIMARY KEY (item, name);
ALTER TABLE ONLY public.quarantine_recipients
    ADD CONSTRAINT quarantine_recipients_pkey PRIMARY KEY (item, "position");
ALTER TABLE ONLY public.quarantine_reach
    ADD CONSTRAINT quarantine_reach_pkey PRIMARY KEY (key, item);
ALTER TABLE ONLY public.quarantine_words
    ADD CONSTRAINT quarantine_words_pkey PRIMARY KEY (item);
ALTER TABLE ONLY public.queue_bytes
    ADD CONSTRAINT queue_bytes_pkey PRIMARY KEY (item);
ALTER TABLE ONLY public.queue_messages
    ADD CONSTRAINT queue_messages_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.queue_owners
    ADD CONSTRAINT queue_owners_pkey PRIMARY KEY (owner);
ALTER TABLE ONLY public.queue_recipients
    ADD CONSTRAINT queue_recipients_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.release_tokens
    ADD CONSTRAINT release_tokens_pkey PRIMARY KEY (nonce);
ALTER TABLE ONLY public.samples
    ADD CONSTRAINT samples_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.secrets
    ADD CONSTRAINT secrets_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.senders
    ADD CONSTRAINT senders_pkey PRIMARY KEY (pattern);
ALTER TABLE ONLY public.spent_tokens
    ADD CONSTRAINT spent_tokens_pkey PRIMARY KEY (mac);
ALTER TABLE ONLY public.tls_hosts
    ADD CONSTRAINT tls_hosts_pkey PRIMARY KEY (host);
ALTER TABLE ONLY public.tls_reports
    ADD CONSTRAINT tls_reports_pkey PRIMARY KEY (day, domain, destination);
ALTER TABLE ONLY public.tls_results
    ADD CONSTRAINT tls_results_pkey PRIMARY KEY (day, domain, hash);
CREATE INDEX audit_item ON public.audit USING btree (item);
CREATE INDEX journal_id ON public.journal USING btree (id);
CREATE INDEX journal_received ON public.journal USING btree (received);
CREATE INDEX logins_person ON public.logins USING btree (person);
CREATE INDEX quarantine_changed ON public.quarantine USING btree (content, changed);
CREATE INDEX quarantine_content ON public.quarantine USING btree (content, held_at, size);
CREATE INDEX quarantine_orders_batch ON public.quarantine_orders USING btree (batch);
CREATE INDEX quarantine_orders_due ON public.quarantine_orders USING btree (due);
CREATE INDEX quarantine_reasons_name ON public.quarantine_reasons USING btree (name, item);
CREATE INDEX quarantine_state ON public.quarantine USING btree (state, id);
CREATE INDEX queue_messages_created ON public.queue_messages USING btree (created);
CREATE INDEX queue_recipients_due ON public.queue_recipients USING btree (state, next_attempt);
CREATE INDEX queue_recipients_item ON public.queue_recipients USING btree (item);
CREATE INDEX release_tokens_item ON public.release_tokens USING btree (item);
CREATE INDEX samples_digest ON public.samples USING btree (digest);
CREATE INDEX samples_near0 ON public.samples USING btree (near0);
CREATE INDEX samples_near1 ON public.samples USING btree (near1);
CREATE INDEX samples_near2 ON public.samples USING btree (near2);
CREATE INDEX samples_near3 ON public.samples USING btree (near3);
CREATE INDEX samples_owner ON public.samples USING btree (owner, state, number);
CREATE INDEX samples_source ON public.samples USING btree (source, "time");
CREATE INDEX samples_state ON public.samples USING btree (state, number);
CREATE INDEX spent_tokens_expires ON public.spent_tokens USING btree (expires);
CREATE TRIGGER audit_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit FOR EACH STATEMENT EXECUTE FUNCTION public.audit_append_only();
