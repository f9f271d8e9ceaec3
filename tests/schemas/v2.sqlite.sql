BEGIN TRANSACTION;
CREATE TABLE audit (
	number INTEGER NOT NULL, 
	time FLOAT NOT NULL, 
	item VARCHAR(32) NOT NULL, 
	who TEXT NOT NULL, 
	action VARCHAR(32) NOT NULL, 
	why TEXT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "audit" VALUES(1,1.79533772880770182609e+09,'1KTK3PV1R0000000','mailwarden','held','CLASSIFIER, score','d68d7aa7362e8b0a2f3e402e29ed697f0b5d48bea35a47c43e29ab6a1c1a1c52');
INSERT INTO "audit" VALUES(2,1.79533772882271265981e+09,'1KTK3PV1R0000001','mailwarden','held','CLASSIFIER, score','42c6c7390615f5aa1bad47562388f4aa50426549c64227a346697d1a6cf75912');
INSERT INTO "audit" VALUES(3,1.7953377288302288055e+09,'1KTK3PV1R0000002','mailwarden','held','CLASSIFIER, score','79f135a53a3d7eb74d6411d792ba5d14a7d6fe739535c848529a00cb49dc03f3');
INSERT INTO "audit" VALUES(4,1.79533772885026049609e+09,'1KTK3PV1R0000001','cli:eve','claimed','bob@example.com','fc94a6bbcd3170dc052d0d7105b4d611e9aa56bc4d50b4be58cc1565688c6b83');
INSERT INTO "audit" VALUES(5,1.7953377288716781139e+09,'1KTK3PV1R0000001','cli:eve','released','bob@example.com: bob@example.com','b48d1b02783717d5fea55cce7481f6826ef2e1c0ab75d6f4cde37a8888758ff3');
INSERT INTO "audit" VALUES(6,1.79533772888092947009e+09,'1KTK3PV1R0000002','cli:eve','deleted','','873a66f45cda84c4d71f50a127d0da8648799e32269c381aa6f200cede8e498b');
CREATE TABLE dmarc_observations (
	day INTEGER NOT NULL, 
	domain VARCHAR(255) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	data TEXT NOT NULL, 
	count BIGINT NOT NULL, 
	PRIMARY KEY (day, domain, hash)
)
 WITHOUT ROWID

;
CREATE TABLE dmarc_policies (
	day INTEGER NOT NULL, 
	domain VARCHAR(255) NOT NULL, 
	record TEXT NOT NULL, 
	PRIMARY KEY (day, domain)
)
 WITHOUT ROWID

;
CREATE TABLE dmarc_reports (
	day INTEGER NOT NULL, 
	domain VARCHAR(255) NOT NULL, 
	destination VARCHAR(320) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	changed FLOAT NOT NULL, 
	note TEXT NOT NULL, 
	PRIMARY KEY (day, domain, destination)
)
 WITHOUT ROWID

;
CREATE TABLE journal (
	number INTEGER NOT NULL, 
	id VARCHAR(32) NOT NULL, 
	queue_id TEXT NOT NULL, 
	received FLOAT NOT NULL, 
	door TEXT NOT NULL, 
	client_ip TEXT NOT NULL, 
	helo TEXT NOT NULL, 
	sender TEXT NOT NULL, 
	recipients TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	message_id TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	action VARCHAR(16) NOT NULL, 
	score FLOAT NOT NULL, 
	reason TEXT NOT NULL, 
	seconds FLOAT NOT NULL, 
	session TEXT NOT NULL, 
	envelope TEXT NOT NULL, 
	evidence TEXT NOT NULL, 
	signals TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	reply TEXT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "journal" VALUES(1,'1KTK3PV1R0000000','4XYZabc',1767607200.0,'milter','203.0.113.5','mx.example.net','alice@example.net','bob@example.com
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}','{"code":250,"enhanced":"2.0.0","text":"Ok"}');
INSERT INTO "journal" VALUES(2,'1KTK3PV1R0000001','4XYZabc',1767607201.0,'milter','203.0.113.5','mx.example.net','alice@example.net','bob@example.com
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}','{"code":250,"enhanced":"2.0.0","text":"Ok"}');
INSERT INTO "journal" VALUES(3,'1KTK3PV1R0000002','4XYZabc',1767607202.0,'milter','203.0.113.5','mx.example.net','alice@example.net','bob@example.com
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000002","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}','{"code":250,"enhanced":"2.0.0","text":"Ok"}');
CREATE TABLE quarantine (
	id VARCHAR(32) NOT NULL, 
	queue_id TEXT NOT NULL, 
	received FLOAT NOT NULL, 
	held_at FLOAT NOT NULL, 
	client_ip TEXT NOT NULL, 
	helo TEXT NOT NULL, 
	sender TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	message_id TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	score FLOAT NOT NULL, 
	reason TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	changed FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000000','4XYZabc',1767607200.0,1.79533772879413485532e+09,'203.0.113.5','mx.example.net','alice@example.net','A chance','<1@example.net>',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','held',1.79533772879413485532e+09);
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000001','4XYZabc',1767607201.0,1.79533772882182550431e+09,'203.0.113.5','mx.example.net','alice@example.net','A chance','<1@example.net>',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','held',1.79533772887019848823e+09);
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000002','4XYZabc',1767607202.0,1.79533772882943081852e+09,'','','alice@example.net','','',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','deleted',1.795337728876966238e+09);
CREATE TABLE quarantine_bytes (
	item VARCHAR(32) NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (item)
);
INSERT INTO "quarantine_bytes" VALUES('1KTK3PV1R0000000',X'7801732BCACFB55270CCC94C4E55B04904510EA91589B90539A97A79A92576BC5C21F9560A49F94970D1E4FC5C5EAEE0D2A4ACD4E412A04685E48CC4BCE4545E2EDFD4E2E2C4F4545D4F172B051B43B8728821BC5C1EA93939F90A2F79B90063622488');
INSERT INTO "quarantine_bytes" VALUES('1KTK3PV1R0000001',X'7801732BCACFB55270CCC94C4E55B04904510EA91589B90539A97A79A92576BC5C21F9560A49F94970D1E4FC5C5EAEE0D2A4ACD4E412A04685E48CC4BCE4545E2EDFD4E2E2C4F4545D4F172B051B43B8728821BC5C1EA93939F90A2F79B90063622488');
CREATE TABLE quarantine_envelopes (
	item VARCHAR(32) NOT NULL, 
	session TEXT NOT NULL, 
	envelope TEXT NOT NULL, 
	held TEXT NOT NULL, 
	PRIMARY KEY (item)
);
INSERT INTO "quarantine_envelopes" VALUES('1KTK3PV1R0000000','{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','["bob@example.com","carol@example.com"]');
INSERT INTO "quarantine_envelopes" VALUES('1KTK3PV1R0000001','{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','["bob@example.com","carol@example.com"]');
CREATE TABLE quarantine_judgements (
	item VARCHAR(32) NOT NULL, 
	number INTEGER NOT NULL, 
	time FLOAT NOT NULL, 
	evidence TEXT NOT NULL, 
	signals TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	PRIMARY KEY (item, number)
);
INSERT INTO "quarantine_judgements" VALUES('1KTK3PV1R0000000',0,1.79533772879413485532e+09,'{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}');
INSERT INTO "quarantine_judgements" VALUES('1KTK3PV1R0000001',0,1.79533772882182550431e+09,'{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}');
CREATE TABLE quarantine_reasons (
	item VARCHAR(32) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	PRIMARY KEY (item, name)
)
 WITHOUT ROWID

;
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000000','CLASSIFIER');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000001','CLASSIFIER');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000002','CLASSIFIER');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000000','score');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000001','score');
INSERT INTO "quarantine_reasons" VALUES('1KTK3PV1R0000002','score');
CREATE TABLE quarantine_recipients (
	item VARCHAR(32) NOT NULL, 
	position INTEGER NOT NULL, 
	address TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	lease VARCHAR(32) NOT NULL, 
	lease_until FLOAT NOT NULL, 
	changed FLOAT NOT NULL, 
	delivered_to TEXT NOT NULL, 
	note TEXT NOT NULL, 
	PRIMARY KEY (item, position)
)
 WITHOUT ROWID

;
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000000',0,'bob@example.com','held','',0.0,1.79533772879413485532e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000000',1,'carol@example.com','held','',0.0,1.79533772879413485532e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000001',0,'bob@example.com','released','',0.0,1.79533772887019848823e+09,'bob@example.com','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000001',1,'carol@example.com','held','',0.0,1.79533772882182550431e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000002',0,'bob@example.com','deleted','',0.0,1.795337728876966238e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000002',1,'carol@example.com','deleted','',0.0,1.795337728876966238e+09,'','');
CREATE TABLE release_tokens (
	nonce VARCHAR(32) NOT NULL, 
	item VARCHAR(32) NOT NULL, 
	recipients TEXT NOT NULL, 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (nonce)
);
INSERT INTO "release_tokens" VALUES('b9bbe899ddeb2453e1651921837ca3be','1KTK3PV1R0000001','["bob@example.com"]',1.79535932886498808859e+09);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	applied FLOAT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(2,1.79533772878161048888e+09);
CREATE TABLE secrets (
	name VARCHAR(32) NOT NULL, 
	value BLOB NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "secrets" VALUES('audit-head',X'362038373361363666343563646138346334643731663530613132376430646138363438373939653332323639633338316161366632303063656465386534393862');
INSERT INTO "secrets" VALUES('release',X'8ECDA83D9E2506A89B3917024070E3C77A6F6B824E8AD1C1BA17DE93B9EC92AC');
CREATE INDEX journal_id ON journal (id);
CREATE INDEX journal_received ON journal (received);
CREATE INDEX quarantine_state ON quarantine (state, id);
CREATE INDEX quarantine_held_at ON quarantine (held_at);
CREATE INDEX quarantine_reasons_name ON quarantine_reasons (name, item);
CREATE INDEX release_tokens_item ON release_tokens (item);
CREATE INDEX audit_item ON audit (item);
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
COMMIT;
