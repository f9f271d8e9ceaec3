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
INSERT INTO "audit" VALUES(1,1.795337754091442585e+09,'1KTK3PV1R0000000','mailwarden','held','CLASSIFIER, score','7bb1c3b832fc6f19b0d852af486628b155dc80482b1558cd69899a41c81c5828');
INSERT INTO "audit" VALUES(2,1.79533775413911128038e+09,'1KTK3PV1R0000001','mailwarden','held','CLASSIFIER, score','7b640292e15792d260075f001f63439151fec4c6967845a57f1fe1e762434b9f');
INSERT INTO "audit" VALUES(3,1.79533775415179920197e+09,'1KTK3PV1R0000002','mailwarden','held','CLASSIFIER, score','ae202f2e2ed14569f9d08dd60f3bcceba038c410ec9af9b3ac58cf057028d2f6');
INSERT INTO "audit" VALUES(4,1.79533775419271588325e+09,'1KTK3PV1R0000001','cli:eve','claimed','bob@example.com','adf0323fd540c087b439cb1d5cb6ec9a1e9b1449082b9361698597ee1c3324a1');
INSERT INTO "audit" VALUES(5,1.79533775424985599512e+09,'1KTK3PV1R0000001','cli:eve','released','bob@example.com: bob@example.com','ec4ed2a5e3059cd10502a5d696f8302c83873175fa683049f649684cd186cfff');
INSERT INTO "audit" VALUES(6,1.7953377542927486896e+09,'1KTK3PV1R0000002','cli:eve','deleted','','8c7326c9dd2699e958de09090205c0152c4dbc785a4c2e1dadeecb8d3def5b06');
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
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"unpacked":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}','{"code":250,"enhanced":"2.0.0","text":"Ok"}');
INSERT INTO "journal" VALUES(2,'1KTK3PV1R0000001','4XYZabc',1767607201.0,'milter','203.0.113.5','mx.example.net','alice@example.net','bob@example.com
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"unpacked":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}','{"code":250,"enhanced":"2.0.0","text":"Ok"}');
INSERT INTO "journal" VALUES(3,'1KTK3PV1R0000002','4XYZabc',1767607202.0,'milter','203.0.113.5','mx.example.net','alice@example.net','bob@example.com
carol@example.com','A chance','<1@example.net>',113,'quarantine',9.5,'score',0.1,'{"client_ip":"203.0.113.5","client_name":"","helo":"mx.example.net","tls":null,"login":"","listener":"","direction":"inbound"}','{"mail_from":"alice@example.net","recipients":["bob@example.com","carol@example.com"],"options":[]}','{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"unpacked":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000002","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}','{"code":250,"enhanced":"2.0.0","text":"Ok"}');
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
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000000','4XYZabc',1767607200.0,1.79533775405798220635e+09,'203.0.113.5','mx.example.net','alice@example.net','A chance','<1@example.net>',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','held',1.79533775405798220635e+09);
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000001','4XYZabc',1767607201.0,1.7953377541377913952e+09,'203.0.113.5','mx.example.net','alice@example.net','A chance','<1@example.net>',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','held',1.79533775423494505879e+09);
INSERT INTO "quarantine" VALUES('1KTK3PV1R0000002','4XYZabc',1767607202.0,1.79533775415077161792e+09,'','','alice@example.net','','',113,'f5861c5c8f2b21ae4aae866e0ebcbd9dda7ef4fde0db2b10754f7cab64d69fda',9.5,'score','deleted',1.79533775426580071449e+09);
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
INSERT INTO "quarantine_judgements" VALUES('1KTK3PV1R0000000',0,1.79533775405798220635e+09,'{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"unpacked":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000000","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}');
INSERT INTO "quarantine_judgements" VALUES('1KTK3PV1R0000001',0,1.7953377541377913952e+09,'{"spf":[],"dkim":[],"dmarc":null,"arc":null,"iprev":null,"antivirus":{"status":"off","name":"","detail":"","engine":""},"spamd":{"status":"off","score":0.0,"required":0.0,"symbols":[],"detail":""},"release":null,"unpacked":null,"durations":{}}','[{"name":"CLASSIFIER","text":"words","value":0.97,"state":"hit"}]','{"id":"1KTK3PV1R0000001","action":"quarantine","outcomes":[{"recipient":"bob@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}},{"recipient":"carol@example.com","action":"quarantine","score":9.5,"thresholds":{"tag":5.0,"quarantine":8.0,"reject":15.0}}],"score":9.5,"reason":"score","reason_text":"","contributions":[{"name":"CLASSIFIER","points":9.5,"text":"words","decides":null,"answered":true}],"edits":[],"versions":{"program":"0.1.0","policy":"abc123","model":"base-1"}}');
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
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000000',0,'bob@example.com','held','',0.0,1.79533775405798220635e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000000',1,'carol@example.com','held','',0.0,1.79533775405798220635e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000001',0,'bob@example.com','released','',0.0,1.79533775423494505879e+09,'bob@example.com','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000001',1,'carol@example.com','held','',0.0,1.7953377541377913952e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000002',0,'bob@example.com','deleted','',0.0,1.79533775426580071449e+09,'','');
INSERT INTO "quarantine_recipients" VALUES('1KTK3PV1R0000002',1,'carol@example.com','deleted','',0.0,1.79533775426580071449e+09,'','');
CREATE TABLE release_tokens (
	nonce VARCHAR(32) NOT NULL, 
	item VARCHAR(32) NOT NULL, 
	recipients TEXT NOT NULL, 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (nonce)
);
INSERT INTO "release_tokens" VALUES('f65d80518083460326b94cf6562d4e94','1KTK3PV1R0000001','["bob@example.com"]',1.79535935421946310996e+09);
CREATE TABLE samples (
	number INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	near0 BIGINT NOT NULL, 
	near1 BIGINT NOT NULL, 
	near2 BIGINT NOT NULL, 
	near3 BIGINT NOT NULL, 
	minima BLOB NOT NULL, 
	spam INTEGER NOT NULL, 
	origin VARCHAR(16) NOT NULL, 
	source TEXT NOT NULL, 
	time FLOAT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	features BLOB NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "samples" VALUES(1,'abababababababababababababababababababababababababababababababab',1,2,3,4,X'00000000000000000000000000000000',1,'operator','cli:eve',1767607200.0,'learned',X'78',X'');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	applied FLOAT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(3,1.79533775404844427115e+09);
CREATE TABLE secrets (
	name VARCHAR(32) NOT NULL, 
	value BLOB NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "secrets" VALUES('audit-head',X'362038633733323663396464323639396539353864653039303930323035633031353263346462633738356134633265316461646565636238643364656635623036');
INSERT INTO "secrets" VALUES('release',X'B3FE3C1F87C5885A803FB430B917A7085F7D28550808CDC1331ECBEE46FB591E');
CREATE INDEX journal_received ON journal (received);
CREATE INDEX journal_id ON journal (id);
CREATE INDEX quarantine_state ON quarantine (state, id);
CREATE INDEX quarantine_held_at ON quarantine (held_at);
CREATE INDEX quarantine_reasons_name ON quarantine_reasons (name, item);
CREATE INDEX release_tokens_item ON release_tokens (item);
CREATE INDEX audit_item ON audit (item);
CREATE INDEX samples_source ON samples (source, time);
CREATE INDEX samples_near0 ON samples (near0);
CREATE INDEX samples_near1 ON samples (near1);
CREATE INDEX samples_near2 ON samples (near2);
CREATE INDEX samples_state ON samples (state, number);
CREATE INDEX samples_near3 ON samples (near3);
CREATE INDEX samples_digest ON samples (digest);
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
COMMIT;
